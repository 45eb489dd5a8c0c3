llama train --size 65b --dry-run

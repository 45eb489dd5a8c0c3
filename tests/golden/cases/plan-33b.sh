llama train --size 33b --dry-run

llama train --size 65b --gpus 8 --gpu a100-80gb --dry-run

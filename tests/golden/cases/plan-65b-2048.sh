llama train --size 65b --gpus 2048 --gpu a100-80gb --dry-run --no-check

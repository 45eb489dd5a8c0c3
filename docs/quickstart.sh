#!/usr/bin/env bash
# From source code on this machine to a scored model, through the eight tools.
# `make demo` runs this file; every line can be copied. All it makes is under runs/demo/.
set -euo pipefail

# real text: the source and documentation of the installed Python packages, at most 200 MB
SITE=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p runs/demo && cd runs/demo
set -x

# crawl to training data; one document in a hundred is held out to measure with
llama fetch github "$SITE" --max-bytes 200000000 | llama filter -j 2 --held-out held-out.jsonl.zst --rejects dropped.jsonl.zst -o code.jsonl.zst
llama tokenize -j 2 code.jsonl.zst | llama mix --length 256 -o mixed
llama tokenize held-out.jsonl.zst | llama mix --length 256 -o validation

# about two minutes on two cores; stop it at any time and run the same line again
llama train --size 3m --data mixed --validation validation --run model --steps 300 --validation-every 50

# a score, a sample, and what it cost
llama eval bits_per_byte --model model --data held-out.jsonl.zst --limit 10 | tee score.jsonl
printf 'def main(\nimport numpy as np\n' | llama generate --model model --max-tokens 48 --format text | tee samples.txt
llama carbon --log model/log.jsonl

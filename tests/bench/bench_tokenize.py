"""`tokenize` from JSON lines to shards, beside a plain loop over sentencepiece and json."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench import corpus, measure
from tests.bench.run import Row
from tests.shell import LLAMA, ROOT

SIZE = 40_000_000  # bytes

PEER = """
import json, sys, array, sentencepiece
sp = sentencepiece.SentencePieceProcessor(model_file=sys.argv[1])
with open(sys.argv[2]) as lines, open(sys.argv[3], "wb") as out:
    for line in lines:
        array.array("H", [1, *sp.encode(json.loads(line)["text"]), 2]).tofile(out)
"""


def rows() -> Iterator[Row]:
    """Tokenize the same file with both, one and two processes."""
    model = ROOT / "llama_cli" / "tokenizer" / "default.model"
    env = {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = corpus.write(folder / "in.jsonl", SIZE, source="github")
        (folder / "peer.py").write_text(PEER)
        peer = measure.run(f"{sys.executable} peer.py {model} {path} out.bin", folder)
        for jobs in (1, 2):
            ours = measure.run(
                f"{LLAMA} tokenize -q -j {jobs} {path} -o out{jobs}", folder, env=env
            )
            yield Row(
                f"`tokenize -j {jobs}` to shards (peer: a loop over sentencepiece)",
                f"{SIZE / 1e6 / ours.seconds:.1f} MB/s",
                f"{SIZE / 1e6 / peer.seconds:.1f} MB/s",
                peer.seconds / ours.seconds,
            )

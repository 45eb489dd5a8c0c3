"""The loss that our trainer reaches beside transformers' model, on real text.

The same first weights, sequences, schedule and settings; what is left is the arithmetic of the two.
Text is `LLAMA_BENCH_DATA` (or ../shared/data beside the checkout): sources/gutenberg/*.txt, cut by
tokenizer/tokenizer.model. Takes ten minutes or more, so it is measured when asked for by name.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from llama_cli.tokenizer.bpe import Tokenizer
from llama_cli.training.settings import DType, Settings, default_warmup
from tests.bench.run import Row
from tests.bench.trainers import Ours, Peer

SIZE, BATCH, LENGTH, THREADS = "15m", 4, 256, 2
STEPS: dict[DType, int] = {"fp32": 120, "bf16": 120}
VALIDATION = 32  # sequences
RATE = 2e-3  # the recipe's
TARGET = 0.02  # nats a token that ours may be above the peer


def rows() -> Iterator[Row]:
    """Train both in turns, and compare the losses of what neither has seen."""
    torch.set_num_threads(THREADS)
    sequences = _sequences()
    held_out, train = sequences[:VALIDATION], sequences[VALIDATION:]
    for dtype, steps in STEPS.items():
        settings = Settings(
            steps=steps, batch=BATCH, lr=RATE, warmup=default_warmup(steps), dtype=dtype
        )
        both = Ours(SIZE, settings), Peer(SIZE, settings)
        for number in range(1, steps + 1):
            start = (number - 1) * BATCH
            losses = [one.step(number, train[start : start + BATCH]) for one in both]
            if number % 25 == 0:
                print(f"{dtype}, step {number}: {losses}", file=sys.stderr, flush=True)
        ours, theirs = (one.evaluate(held_out) for one in both)
        tokens = steps * BATCH * LENGTH
        yield Row(
            f"validation loss, {SIZE}, {dtype}, {steps} steps, {tokens:,} tokens of books "
            f"(peer: transformers; ours at most {TARGET:+})",
            f"{ours:.4f}",
            f"{theirs:.4f} ({ours - theirs:+.4f})",
            theirs / ours,
        )


def _sequences() -> Tensor:
    """Give shuffled sequences (N, L + 1) of the books, each of which is there once."""
    data = Path(os.environ.get("LLAMA_BENCH_DATA") or Path(__file__).parents[3] / "shared" / "data")
    tokenizer = Tokenizer.load(data / "tokenizer" / "tokenizer.model")
    tokens: list[int] = []
    for path in _books(data / "sources" / "gutenberg"):
        tokens += tokenizer.encode(path.read_text(encoding="utf-8", errors="ignore"))
    count = len(tokens) // (LENGTH + 1)
    order = list(range(count))
    random.Random(0).shuffle(order)
    return torch.tensor(tokens[: count * (LENGTH + 1)]).view(count, -1)[order]


def _books(directory: Path) -> list[Path]:
    """List them; Gutenberg has a book in several encodings, NUMBER.txt, -8 and -0."""
    found = {
        path.stem.split("-")[0]: path for path in sorted(directory.glob("*.txt"), reverse=True)
    }
    found.pop("PROVENANCE", None)
    if not found:
        raise FileNotFoundError(f"no books in {directory}: set LLAMA_BENCH_DATA")
    return [found[name] for name in sorted(found)]

"""Batches on which the loss is no number: a token that no other batch has, and its embedding."""

from __future__ import annotations

from collections.abc import Iterable
from math import nan
from pathlib import Path

import numpy as np

from llama_cli.parallel import slices
from llama_cli.shards.write import ShardWriter
from llama_cli.training import loop
from tests.unit.training import LENGTH, SETTINGS, VOCAB

BAD = VOCAB - 1  # the token


def write_batches(directory: Path, numbers: Iterable[int], bad: Iterable[int]) -> Path:
    """Write the batches of these numbers, four sequences each, so that each is like no other."""
    with ShardWriter(directory, kind="sequences", vocab_size=VOCAB) as shards:
        for batch in numbers:
            for row in range(SETTINGS.batch):
                tokens = (batch * 5 + row * 11 + np.arange(LENGTH + 1) * 3) % BAD
                if batch in bad and row == SETTINGS.batch - 1:
                    tokens[1] = BAD
                shards.add(tokens, "files", f"{batch}.{row}")
    return directory


def plant() -> None:
    """Let training begin with an embedding of the token that is no number."""
    draw = slices.draw_weights

    def draw_weights(parts: list[slices.Part], *rest: object) -> None:
        draw(parts, *rest)  # type: ignore[arg-type]
        for held in (part.held for part in parts):
            if held.name == "tok_embeddings.weight":
                row = BAD - held.offset[0]
                if 0 <= row < len(held.tensor):
                    held.tensor[row] = nan

    loop.draw_weights = draw_weights

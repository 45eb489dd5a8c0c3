"""What one step is trained on: sequences, which of their tokens count, and documents in them.

Legend: B sequences, L positions with a next token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -1  # as a target: a token whose prediction does not count


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's rows of a global batch."""

    tokens: Tensor  # (B, L + 1)
    counts: Tensor | None = None  # (B, L) bool: whether the next token counts; None for all
    bounds: Tensor | None = None  # (2, B, L) of kernels.documents: documents kept apart

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def counted(self) -> int:
        """Count the tokens that are to be predicted."""
        if self.counts is None:
            return self.tokens[:, 1:].numel()
        return int(self.counts.sum())

    @property
    def targets(self) -> Tensor:
        """Give the next tokens (B, L), and IGNORED for those that do not count."""
        after = self.tokens[:, 1:]
        return after if self.counts is None else after.masked_fill(~self.counts, IGNORED)

    def ignored(self) -> Batch:
        """Give the same tokens, none of which count."""
        counts = torch.zeros_like(self.tokens[:, 1:], dtype=torch.bool)
        return Batch(self.tokens, counts, self.bounds)

    def padded(self, size: int) -> Batch:
        """Give `size` sequences: these, and their last again without a token that counts.

        >>> Batch(torch.tensor([[1, 2, 3]])).padded(2).targets.tolist()
        [[2, 3], [-1, -1]]
        """
        rows = torch.arange(size).clamp(max=len(self) - 1)
        counts = torch.ones_like(self.tokens[:, 1:], dtype=torch.bool)
        counts = (counts if self.counts is None else self.counts)[rows]
        counts[len(self) :] = False
        bounds = self.bounds
        return Batch(self.tokens[rows], counts, None if bounds is None else bounds[:, rows])

    def to(self, device: torch.device | str) -> Batch:
        """Move it; from pinned memory, the copy runs beside what the GPU does."""
        return self._each(lambda x: x.to(device, non_blocking=True))

    def pinned(self) -> Batch:  # pragma: no cover (gpu)
        """Put it where a GPU copies from by itself."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        counts, bounds = self.counts, self.bounds
        return Batch(
            change(self.tokens),
            None if counts is None else change(counts),
            None if bounds is None else change(bounds),
        )

    def split(self, size: int) -> Iterator[Batch]:
        """Cut it into batches of `size` sequences, the last with what is left."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            counts, bounds = self.counts, self.bounds
            yield Batch(
                self.tokens[rows],
                None if counts is None else counts[rows],
                None if bounds is None else bounds[:, rows],
            )

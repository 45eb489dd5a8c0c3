"""What gives a text a number from 0 to 1: how toxic it is, how true, how informative.

The paper's scorers are services that end or have ended: PerspectiveAPI (section 5.1) and two
judges that OpenAI made of GPT-3 (section 5.4). So a scorer is any callable with a name, and what
one of ours says never stands under the paper's metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["Scorer"]


class Scorer(Protocol):
    """Score texts, in their order; `name` stands with every result."""

    @property
    def name(self) -> str:
        """Say what scored, in a word that fits a metric's name."""

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Give a number from 0 to 1 for each text."""

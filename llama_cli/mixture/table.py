"""Table 1 of the paper as data: from where LLaMA's tokens came, and how often each was seen.

LLaMA, section 2.1. The runs on 1 trillion tokens have the same sampling proportions.
"""

from __future__ import annotations

from dataclasses import dataclass

PAPER_TOKENS = 1_400_000_000_000  # "roughly 1.4T tokens after tokenization"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of Table 1."""

    title: str  # as the paper prints it
    proportion: float  # percent of the tokens seen
    epochs: float  # when training on PAPER_TOKENS
    disk: float  # bytes, decimal

    @property
    def unique_tokens(self) -> float:
        """Tokens in the source, which the paper does not print but implies.

        >>> round(TABLE["books"].unique_tokens / 1e9, 1)
        28.3
        """
        return self.proportion / 100 * PAPER_TOKENS / self.epochs


TABLE = {
    "common_crawl": Row("CommonCrawl", 67.0, 1.10, 3.3e12),
    "c4": Row("C4", 15.0, 1.06, 783e9),
    "github": Row("Github", 4.5, 0.64, 328e9),
    "wikipedia": Row("Wikipedia", 4.5, 2.45, 83e9),
    "books": Row("Books", 4.5, 2.23, 85e9),
    "arxiv": Row("ArXiv", 2.5, 1.06, 92e9),
    "stack_exchange": Row("StackExchange", 2.0, 1.03, 78e9),
}

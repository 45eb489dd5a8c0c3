"""Which sources are mixed, and in what proportions, given what the input holds.

Table 1 unless the user says otherwise. It knows seven sources; a corpus may lack some and
have others, and must mix all the same, with a word about each difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llama_cli.errors import LlamaError
from llama_cli.mixture.table import TABLE


@dataclass(frozen=True, slots=True)
class Weights:
    """What share of the sequences each source has, and how that differs from what was asked."""

    of: dict[str, float]  # sums to 1
    lacking: list[str] = field(default_factory=list)  # asked for, not in the input
    left_out: list[str] = field(default_factory=list)  # in the input, not asked for
    by_size: list[str] = field(default_factory=list)  # not in Table 1


def choose(tokens: Mapping[str, int], asked: Mapping[str, float] | None = None) -> Weights:
    """Choose weights for an input with so many `tokens` of each source.

    With `asked`, those, renormalised over the sources that the input has. Otherwise
    Table 1's, where a source outside the table has its own share of the tokens.

    >>> choose({"books": 10, "arxiv": 10}).of == {"books": 4.5 / 7, "arxiv": 2.5 / 7}
    True

    Raises:
        LlamaError: no source is left.
    """
    have = {name: count for name, count in tokens.items() if count}
    wanted = {name: row.proportion for name, row in TABLE.items()} if asked is None else asked
    chosen = {name: wanted[name] for name in have if wanted.get(name)}
    others = [name for name in have if name not in wanted]
    lacking = [name for name, weight in wanted.items() if weight and name not in have]
    if asked is not None:
        left_out = [name for name in have if name not in chosen]
        return Weights(_shares(chosen, 1.0), lacking, left_out)
    whole = sum(have.values())
    by_size = {name: have[name] / whole for name in others}
    of = _shares(chosen, 1 - sum(by_size.values())) if chosen else {}
    return Weights(_shares({**of, **by_size}, 1.0), lacking, by_size=others)


def _shares(weights: Mapping[str, float], total: float) -> dict[str, float]:
    whole = sum(weights.values())
    if not whole:
        raise LlamaError("nothing to mix: no tokens of a source with a weight")
    return {name: weight * total / whole for name, weight in weights.items()}

"""What tells small models apart while their accuracy is still at chance.

Both look at the gold answer's likelihood rather than at which answer is likeliest, so that they
move long before accuracy does: the code length of the gold answer a byte, which depends on no
tokenizer, and by how much it is likelier than the best wrong one. Smoothly rising figures of this
kind are why small runs can be compared at all (Schaeffer et al., 2023,
https://arxiv.org/abs/2304.15004; Heineman et al., 2025, https://arxiv.org/abs/2508.13144).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

NAMES = ("margin", "gold_bits_per_byte")


def bits_per_byte(logprob: float, text: str) -> float:
    """Give the code length of `text`, in bits for each of its UTF-8 bytes; less is better.

    `text` is all that was scored, the space that joins it to its context too; `logprob` is the
    natural logarithm of its probability.

    >>> round(bits_per_byte(-4.0, " cat"), 4)  # 4 nats are 5.77 bits, for 4 bytes
    1.4427

    Raises:
        ValueError: `text` is empty.
    """
    length = len(text.encode("utf-8", "surrogatepass"))
    if not length:
        raise ValueError("an empty text has no bits a byte")
    return max(0.0, -logprob / math.log(2) / length)


def margin(values: Sequence[float], gold: int) -> float:
    """Give by how much the gold answer leads the best other, in nats; more is better.

    >>> margin([-3.0, -1.0, -4.0], 0)
    -2.0

    Raises:
        ValueError: `gold` is none of the answers, or there is no other.
    """
    if not 0 <= gold < len(values):
        raise ValueError(f"answer {gold} is none of {len(values)}")
    others = [each for place, each in enumerate(values) if place != gold]
    if not others:
        raise ValueError("one answer alone has no margin")
    return values[gold] - max(others)


def small_values(
    values: Sequence[float], gold: int, *, logprob: float, text: str
) -> dict[str, float]:
    """Give both, as values of a graded row.

    Args:
        values: one an answer, by which the task ranks them: the likelihood, or that by
            character or beside a prior. So the margin is over 0 exactly where the row is right.
        gold: which of them is right.
        logprob: of the gold answer's text given its context, not normalised.
        text: all of what was scored.

    A likelihood of 0, or an answer without others, gives no value rather than an infinite one.
    """
    found = {}
    if len(values) > 1 and all(map(math.isfinite, values)):
        found[NAMES[0]] = margin(values, gold)
    if text and math.isfinite(logprob):
        found[NAMES[1]] = bits_per_byte(logprob, text)
    return found

"""The learning rate: linear warm-up, then a cosine to a tenth (section 2.3).

"We use a cosine learning rate schedule, such that the final learning rate is equal to 10%
of the maximal learning rate", with 2,000 warm-up steps. Where the warm-up begins it does not
say: at `start` of the peak, which is 0.1 unless `--warmup-from` says otherwise, 0 being usual.
"""

from __future__ import annotations

import math

FINAL = 0.1  # of the maximal rate, at the last step; section 2.3


def learning_rate(step: int, *, steps: int, warmup: int, peak: float, start: float = 0.0) -> float:
    """Give the rate of step `step`, counted from 1 to `steps`.

    >>> [learning_rate(step, steps=12, warmup=2, peak=1.0) for step in (1, 2, 7, 12)]
    [0.5, 1.0, 0.55, 0.1]
    >>> learning_rate(1, steps=12, warmup=2, peak=1.0, start=0.1)
    0.55
    """
    if step <= warmup:
        return start * peak + (1 - start) * peak * step / warmup
    done = (step - warmup) / (steps - warmup)
    return peak * (FINAL + (1 - FINAL) * (1 + math.cos(math.pi * done)) / 2)

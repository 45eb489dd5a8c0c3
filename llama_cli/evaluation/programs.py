"""From completions to programs that test themselves, and from their results to pass@k.

HumanEval: Chen et al., 2021, https://arxiv.org/abs/2107.03374; stop sequences of section 2.2.
MBPP: Austin et al., 2021, https://arxiv.org/abs/2108.07732; the marks of figure 1. LLaMA,
section 3.5, Table 8.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from llama_cli.evaluation.task import Row

HUMANEVAL_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
MBPP_STOPS = ("[DONE]",)


def humaneval(row: Row, completion: str) -> str:
    """Write the function as begun and completed, its tests, and their call."""
    body = cut(completion, HUMANEVAL_STOPS)
    return f"{row['prompt']}{body}\n{row['test']}\ncheck({row['entry_point']})\n"


def mbpp(row: Row, completion: str) -> str:
    """Write the completed code, what its tests need, and the tests, one assertion each."""
    code = cut(completion, MBPP_STOPS)
    return "\n".join([code, row["test_setup_code"], *row["test_list"], ""])


def cut(completion: str, stops: Iterable[str]) -> str:
    r"""Keep what stands before the first of the stop sequences.

    >>> cut("    return 1\n\ndef other():", HUMANEVAL_STOPS)
    '    return 1\n'
    """
    ends = (completion.find(stop) for stop in stops)
    return completion[: min((end for end in ends if end >= 0), default=len(completion))]


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Estimate without bias the chance that one of `k` samples passes.

    1 - C(n-c, k) / C(n, k), as a product of factors near one: the binomials of 200 samples
    are beyond a float. Chen et al., section 2.1 and figure 3.

    >>> pass_at_k(4, 1, 2)
    0.5

    Raises:
        ValueError: there are fewer samples than `k`, or more passed than there are.
    """
    if not 0 <= passed <= samples or not 1 <= k <= samples:
        raise ValueError(f"no pass@{k} of {samples} samples of which {passed} passed")
    if samples - passed < k:
        return 1.0
    return 1 - math.prod(1 - k / n for n in range(samples - passed + 1, samples + 1))


def mean_pass_at_k(counts: Sequence[tuple[int, int]], k: int) -> float:
    """Average over problems, given the samples of each and how many of them passed."""
    return math.fsum(pass_at_k(samples, passed, k) for samples, passed in counts) / len(counts)

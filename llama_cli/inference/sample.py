"""Choosing the next token: the most likely one, or a draw from the nucleus.

Nucleus sampling (Holtzman et al., 2020, https://arxiv.org/abs/1904.09751) with the rule of
Meta's released code: in order of falling probability, drop a token when those before it
already hold more than `top_p`; the one that crosses the line is kept.

A draw uses one uniform number keyed by (seed, prompt id, position), never a shared random
stream, so a completion does not depend on the prompts that share its batch.
"""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor

FLOORS = (1e-4, 1e-5, 0.0)  # ours: to sort the few likely tokens, and all only where needed
COLDEST = 1e-6  # ours: the most likely token has it all, and float32 would overflow


def uniform(seed: int, name: str, position: int) -> float:
    """Give the number in [0, 1) that decides one token of one prompt.

    >>> uniform(0, "a", 5) == uniform(0, "a", 5) != uniform(0, "b", 5)
    True
    """
    digest = blake2b(f"{seed} {position} {name}".encode("utf-8", "surrogatepass"), digest_size=8)
    return (int.from_bytes(digest.digest(), "little") >> 11) / (1 << 53)


def nucleus(p_V: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Give the probabilities that are kept and their tokens, falling if any is dropped.

    >>> nucleus(torch.tensor([0.2, 0.5, 0.3]), 0.5)[1].tolist()  # 0.5 is not more than 0.5
    [1, 2]
    """
    if top_p >= 1:  # all of it, and no need to sort
        return p_V.double(), torch.arange(len(p_V))
    for floor in FLOORS:
        tokens = (p_V > floor).nonzero()[:, 0]
        p = p_V[tokens].double()
        if float(p.sum()) > top_p:  # then whatever is below the floor would be dropped
            break
    p, order = p.sort(descending=True, stable=True)
    kept = p.cumsum(0) - p <= top_p
    return p[kept], tokens[order[kept]]


def draw(logits_V: Tensor, number: float, *, temperature: float, top_p: float) -> int:
    """Choose a token with the uniform `number`; temperature 0 takes the most likely.

    >>> draw(torch.tensor([0.0, 1.0]), 0.99, temperature=0, top_p=1.0)
    1
    """
    if temperature < COLDEST:
        return int(logits_V.argmax())
    p, tokens = nucleus((logits_V.float() / temperature).softmax(-1), top_p)
    ends = p.cumsum(0)
    index = int((ends <= number * ends[-1]).sum())
    return int(tokens[min(index, len(tokens) - 1)])  # a rounded end may equal the whole

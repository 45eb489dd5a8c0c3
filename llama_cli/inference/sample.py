"""Choosing the next token: the most likely one, or a draw among the likely ones.

Nucleus sampling (Holtzman et al., 2020, https://arxiv.org/abs/1904.09751) with the rule of
Meta's released code: in order of falling probability, drop a token when those before it
already hold more than `top_p`; the one that crosses the line is kept.

A draw uses one uniform number keyed by (seed, prompt id, position), never a shared random
stream, so a completion does not depend on the prompts that share its batch.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Tokens = NDArray[np.int64]

FLOORS = (1e-4, 1e-5, 0.0)  # ours: to sort the few likely tokens, and all only where needed
COLDEST = 1e-6  # ours: the most likely token has it all, and float32 would overflow
HOTTEST = 1e30  # ours: all tokens are as likely, and float32 has no more to say


def uniform(seed: int, name: str, position: int, sample: int = 0) -> float:
    """Give the number in [0, 1) that decides one token of one sample of one prompt.

    >>> uniform(0, "a", 5) == uniform(0, "a", 5) != uniform(0, "b", 5)
    True
    """
    key = f"{seed}.{sample}" if sample else str(seed)
    digest = blake2b(f"{key} {position} {name}".encode("utf-8", "surrogatepass"), digest_size=8)
    return (int.from_bytes(digest.digest(), "little") >> 11) / (1 << 53)


def nucleus(p_V: Floats, top_p: float) -> tuple[Floats, Tokens]:
    """Give the probabilities that are kept and their tokens, falling if any is dropped.

    >>> nucleus(np.array([0.2, 0.5, 0.3]), 0.5)[1].tolist()  # 0.5 is not more than 0.5
    [1, 2]
    """
    if top_p >= 1:  # all of it, and no need to sort
        return p_V.astype(np.float64), np.arange(len(p_V))
    for floor in FLOORS:
        tokens = np.flatnonzero(p_V > floor)
        if p_V[tokens].sum(dtype=np.float64) > top_p:  # what is below would be dropped
            break
    tokens = tokens[falling(p_V[tokens])]
    p = p_V[tokens].astype(np.float64)
    kept = p.cumsum() - p <= top_p
    return p[kept], tokens[kept]


def falling(p_V: Floats) -> Tokens:
    """Order probabilities from the largest; of equal ones, the first is first.

    In fp32, where bits grow as numbers do, whole numbers are sorted, of which no two are equal:
    a tenth of the time.

    >>> falling(np.array([0.1, 0.4, 0.1, 0.4], np.float32)).tolist()
    [1, 3, 0, 2]
    """
    if p_V.dtype != np.float32:
        return np.argsort(-p_V, kind="stable")
    count = len(p_V)
    keys = p_V.view(np.uint32).astype(np.uint64) << 32
    keys |= np.arange(count - 1, -1, -1, dtype=np.uint64)
    keys.sort()
    return (count - 1 - (keys[::-1] & 0xFFFFFFFF)).astype(np.int64)


def likeliest(p_V: Floats, count: int) -> tuple[Floats, Tokens]:
    """Give the `count` largest, falling, and their tokens.

    Of tokens that are as likely as the last one kept, those with the lowest ids are.

    >>> likeliest(np.array([0.2, 0.4, 0.2, 0.2]), 2)[1].tolist()
    [1, 0]
    """
    if not count:
        return p_V[:0], np.arange(0)
    least = np.partition(p_V, -count)[-count]
    tokens = np.flatnonzero(p_V >= least)
    tokens = tokens[np.argsort(-p_V[tokens], kind="stable")[:count]]
    return p_V[tokens], tokens


def kept(
    p_V: Floats, *, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0
) -> tuple[Floats, Tokens]:
    """Give the probabilities and the tokens to draw among: top-k, of that top-p, of that min-p.

    `min_p` (Nguyen et al., 2024, https://arxiv.org/abs/2407.01082) drops what is less than so
    many times as likely as the most likely. The order of the three is that of transformers.
    """
    if 0 < top_k < len(p_V):
        p, tokens = likeliest(p_V.astype(np.float64), top_k)
        p, order = nucleus(p / p.sum(), top_p)
        tokens = tokens[order]
    else:
        p, tokens = nucleus(p_V, top_p)
    if min_p > 0:
        likely = p >= min_p * p.max()
        p, tokens = p[likely], tokens[likely]
    return p, tokens


def draw(
    logits_V: Floats,
    number: float,
    *,
    temperature: float,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
) -> int:
    """Choose a token with the uniform `number`; temperature 0 takes the most likely.

    >>> draw(np.array([0.0, 1.0]), 0.99, temperature=0, top_p=1.0)
    1
    """
    if temperature < COLDEST:
        return int(logits_V.argmax())
    with np.errstate(over="ignore"):  # what is less likely than a float can say is never drawn
        p_V = np.exp((logits_V - logits_V.max()) / np.float32(min(temperature, HOTTEST)))
    p_V /= p_V.sum()
    p, tokens = kept(p_V, top_p=top_p, top_k=top_k, min_p=min_p)
    ends = p.cumsum()
    index = int((ends <= number * ends[-1]).sum())
    return int(tokens[min(index, len(tokens) - 1)])  # a rounded end may equal the whole

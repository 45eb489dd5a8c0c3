"""How much of a prompt others begin with, in whole blocks: it is computed once for all of them."""

from __future__ import annotations

from collections.abc import Sequence

BLOCK = 16  # tokens of a prompt that are shared, or not, together; ours


def nearest(ids: Sequence[int], prompts: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Name the first prompt that begins most as `ids` does, and for how many tokens."""
    best = most = 0
    for slot, prompt in enumerate(prompts):
        if may_share_more(ids, prompt, most) and (shared := alike(ids[:-1], prompt)) > most:
            best, most = slot, shared
    return best, most


def may_share_more(ids: Sequence[int], prompt: Sequence[int], most: int) -> bool:
    """Look at one block: most prompts differ in the first after what is shared already."""
    end = most + BLOCK
    return end < len(ids) and ids[most:end] == prompt[most:end]


def alike(ids: Sequence[int], others: Sequence[int]) -> int:
    """Count the tokens of the whole blocks that both begin with."""
    count = 0
    while count + BLOCK <= min(len(ids), len(others)):
        if ids[count : count + BLOCK] != others[count : count + BLOCK]:
            break
        count += BLOCK
    return count

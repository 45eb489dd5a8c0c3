"""How likely continuations are, where whatever several of them begin with is computed once.

    [1 The sky is] [blue]        1 The sky ─┬─ is ─┬─ blue?
    [1 The sky is] [wide]                   │      └─ wide?
    [1 The sky was] [blue]                  └─ was ── blue?

Sorted, the token lists of all pairs are the leaves of a tree. A node's tokens are read in a slot
of their own, which begins with its parent's; those under a node come right after it, so few slots
are held at a time. The last token of a pair is only asked about, never read.
Legend: N positions, V vocabulary.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from llama_cli.inference.backend import Backend, Piece, Room, States

Pair = tuple[Sequence[int], Sequence[int]]  # ids of a context, and of what continues it

FORWARD = 2048  # tokens in one step; ours


@dataclass(frozen=True, slots=True)
class Likelihood:
    """ln p(continuation | context), and whether each of its tokens was the likeliest."""

    logprob: float
    greedy: bool


@dataclass(slots=True, eq=False)
class _Node:
    """Tokens that some pairs have in the same places, and what is asked after each."""

    tokens: Sequence[int]
    start: int
    parent: _Node | None
    asked: list[tuple[int, int, int]] = field(default_factory=list)  # place here, token, pair
    left: int = 0  # nodes under it that are still to be read
    slot: int = -1

    @property
    def end(self) -> int:
        """Where it ends, in a row."""
        return self.start + len(self.tokens)


def likelihoods(network: Backend, pairs: Sequence[Pair]) -> list[Likelihood]:
    """Score each pair; every context has a token at least."""
    scores, greedy = [0.0] * len(pairs), [True] * len(pairs)
    wanted = [index for index, (_, continuation) in enumerate(pairs) if continuation]
    for batch, states_Nd in _read(network, _tree(pairs, wanted)):
        asked = sorted((first + at, *rest) for first, node in batch for at, *rest in node)
        rows = sorted({row for row, _, _ in asked})
        for begin in range(0, len(rows), network.at_once):
            part = rows[begin : begin + network.at_once]
            number = {row: index for index, row in enumerate(part)}
            logits_NV = network.logits(states_Nd[part])
            best, total_N = network.summary(logits_NV)
            ends = (bisect_left(asked, (row,)) for row in (part[0], part[-1] + 1))
            mine = [(number[row], token, pair) for row, token, pair in asked[slice(*ends)]]
            at, tokens = ([each[i] for each in mine] for i in (0, 1))
            wide = logits_NV[at, tokens].astype(np.float64)
            logp = (wide - total_N[at]).tolist()
            for (row, token, pair), each in zip(mine, logp, strict=True):
                scores[pair] += each
                greedy[pair] &= best[row] == token
    return [Likelihood(*each) for each in zip(scores, greedy, strict=True)]


def _tree(pairs: Sequence[Pair], wanted: Sequence[int]) -> list[_Node]:
    """Give the nodes of all pairs, each before those under it."""
    read = {index: [*chain(*pairs[index])][:-1] for index in wanted}
    within = _leaves(read)
    nodes: list[_Node] = []
    groups: list[tuple[list[int], int, _Node | None]] = [([*within], 0, None)] if within else []
    while groups:
        group, start, parent = groups.pop()
        shared = _common(read[group[0]], read[group[-1]], start)
        asking = [pair for leaf in group for pair in within[leaf]] if shared > start else []
        for at in range(start, shared, FORWARD):
            parent = _Node(read[group[0]][at : min(at + FORWARD, shared)], at, parent)
            _ask(parent, asking, pairs)
            nodes.append(parent)
        if len(group) > 1:
            groups += [(each, shared, parent) for each in _by_token(group, read, shared)]
    for node in nodes:
        if node.parent:
            node.parent.left += 1
    return nodes


def _leaves(read: dict[int, list[int]]) -> dict[int, list[int]]:
    """Give the lists that no other goes on from, in order, and of each those that lie within.

    Sorted, a list that another begins with comes right before one that does.
    """
    within: dict[int, list[int]] = {}
    leaf = None
    for index in sorted(read, key=read.__getitem__, reverse=True):
        if leaf is not None and read[leaf][: len(read[index])] == read[index]:
            within[leaf].append(index)
        else:
            leaf = index
            within[leaf] = [index]
    return dict(reversed(within.items()))


def _common(one: Sequence[int], other: Sequence[int], start: int) -> int:
    """Give the place where two lists part, which are the same up to `start`."""
    end = min(len(one), len(other))
    while start < end and one[start] == other[start]:
        start += 1
    return start


def _by_token(group: Sequence[int], read: dict[int, list[int]], place: int) -> Iterator[list[int]]:
    """Part neighbours by their token at a place; the last first, as a stack wants them."""
    held: list[int] = []
    for index in reversed(group):
        if held and read[held[0]][place] != read[index][place]:
            yield held[::-1]
            held = []
        held.append(index)
    if held:
        yield held[::-1]


def _ask(node: _Node, group: Sequence[int], pairs: Sequence[Pair]) -> None:
    """Note which tokens of whose continuations come after the node's."""
    for pair in group:
        context, continuation = pairs[pair]
        before = len(context) - 1
        for place in range(max(before, node.start), min(before + len(continuation), node.end)):
            node.asked.append((place - node.start, continuation[place - before], pair))


def _read(
    network: Backend, nodes: Sequence[_Node]
) -> Iterator[tuple[list[tuple[int, list[tuple[int, int, int]]]], States]]:
    """Read all nodes, parents first; give what each batch of them asks, and the states."""
    cache: Room = network.cache()
    longest = max((node.end for node in nodes), default=0)
    cache.grow(1, longest)
    most, free = cache.rows(longest), [0]
    under: dict[_Node | None, list[_Node]] = {}
    for node in reversed(nodes):
        under.setdefault(node.parent, []).append(node)
    ready = under.pop(None, [])  # the next one last
    while ready:
        batch = _batch(ready, most - cache.slots + len(free))
        for node in batch:
            if not free:
                slots = max(cache.slots + 1, min(2 * cache.slots, most))
                free += range(cache.slots, slots)
                cache.grow(slots, 0)
            node.slot = free.pop()
            if node.parent:
                cache.copy(node.parent.slot, node.slot, node.start)
        tokens = [token for node in batch for token in node.tokens]
        pieces = [Piece(node.slot, node.start, len(node.tokens)) for node in batch]
        states_Nd = network.states(tokens, pieces, cache)
        firsts = [0]
        for node in batch:
            firsts.append(firsts[-1] + len(node.tokens))
            _leave(node, cache, free)
        yield [(first, node.asked) for first, node in zip(firsts, batch, strict=False)], states_Nd
        ready += chain.from_iterable(under.pop(node, []) for node in reversed(batch))


def _batch(ready: list[_Node], most: int) -> list[_Node]:
    """Take nodes off the end, as many as one step reads; one at least."""
    batch, left = [ready.pop()], FORWARD
    left -= len(batch[0].tokens)
    while ready and len(ready[-1].tokens) <= left and len(batch) < most:
        batch.append(ready.pop())
        left -= len(batch[-1].tokens)
    return batch


def _leave(node: _Node, cache: Room, free: list[int]) -> None:
    """Let a slot go that nothing more begins with."""
    for each in (node, node.parent):
        if each is None:
            continue
        if each is not node:
            each.left -= 1
        if not each.left:
            cache.drop(each.slot)
            free.append(each.slot)

"""A model whose layers several processes share, because it outgrows one GPU's memory.

Each process has a part of the heads, of the hidden width and of the vocabulary; two sums a layer
put together what they make (Shoeybi et al., 2019, section 3). The first process leads: it alone
reads prompts and chooses tokens, and tells the others each step, which they take with it. What it
tells goes over a group of its own on the processors, small and in order.

    leader     Engine ─▶ Leader ─┬─▶ Network, its part ──┐ sums
    followers            follow ─┴─▶ Network, its part ──┘
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from llama_cli.inference.backend import Piece
from llama_cli.inference.cache import Cache
from llama_cli.inference.network import Network
from llama_cli.kernels.host import Floats

LEADER = 0


@dataclass(frozen=True, slots=True)
class Group:
    """The processes that share a model; `told` is the group that messages go over."""

    rank: int
    size: int
    told: Any

    def total(self, x: Tensor) -> Tensor:
        """Sum over the processes, in place."""
        dist.all_reduce(x)
        return x

    def columns(self, x_NV: Tensor) -> Tensor:
        """Put the columns of all beside each other."""
        parts = [torch.empty_like(x_NV) for _ in range(self.size)]
        dist.all_gather(parts, x_NV.contiguous())
        return torch.cat(parts, 1)


class Leader:
    """The first process's part of a model, which makes the others run theirs. A `Backend`."""

    def __init__(self, network: Network, group: Group) -> None:
        self.network, self.group = network, group
        self.config, self.at_once = network.config, network.at_once
        self._caches = 0

    def begin_thread(self) -> None:
        """Get ready to be run by another thread."""
        self.network.begin_thread()

    def cache(self) -> Room:
        """Make one on every process; the one before it is forgotten."""
        self._caches += 1
        return Room(self.network.cache(), self._caches)

    def states(self, tokens: Sequence[int], pieces: Sequence[Piece], cache: Room) -> Tensor:
        """Give what the head reads of each token (N, d), and add the tokens to the caches."""
        changes, cache.changes = cache.changes, []
        _tell(self.group, ("states", cache.number, changes, list(tokens), list(pieces)))
        return self.network.states(tokens, pieces, cache.own)

    def logits(self, states_Nd: Tensor) -> Floats:
        """Give the logits (N, V) after states."""
        _tell(self.group, ("logits", len(states_Nd)))
        dist.broadcast(states_Nd.contiguous(), LEADER)
        return self.network.logits(states_Nd)

    def summary(self, logits_NV: Floats) -> tuple[list[int], Floats]:
        """Give the first of the largest of each row, and ln of the sum of e to each logit."""
        return self.network.summary(logits_NV)

    def end(self) -> None:
        """Let the others go."""
        _tell(self.group, ("end",))


class Room:
    """The leader's cache, which keeps in mind what the others are to do to theirs."""

    def __init__(self, own: Cache, number: int) -> None:
        self.own, self.number = own, number
        self.changes: list[tuple[Any, ...]] = []

    @property
    def prompts(self) -> list[list[int]]:
        """Give the tokens of a prompt that lie in each slot."""
        return self.own.prompts

    @property
    def slots(self) -> int:
        """Rows there is room for."""
        return self.own.slots

    def nearest(self, ids: Sequence[int]) -> tuple[int, int]:
        """Name the slot whose prompt begins most as `ids` does, and for how many whole blocks."""
        return self.own.nearest(ids)

    def rows(self, length: int) -> int:
        """Say how many rows of a length are well held at a time."""
        return self.own.rows(length)

    def grow(self, slots: int, length: int) -> None:
        """Make room for as much, at least, and keep what is there."""
        self._do("grow", slots, length)

    def copy(self, source: int, target: int, count: int) -> None:
        """Give a slot the first tokens of another."""
        self._do("copy", source, target, count)

    def drop(self, slot: int) -> None:
        """Forget what a slot holds."""
        self._do("drop", slot)

    def _do(self, *change: Any) -> None:
        self.changes.append(change)
        getattr(self.own, change[0])(*change[1:])


def follow(network: Network, group: Group) -> None:
    """Take each step that the leader tells, until it ends."""
    cache, number = network.cache(), 0
    while True:
        kind, *rest = _told(group)
        if kind == "end":
            return
        if kind == "logits":
            states_Nd = torch.empty(
                rest[0], network.config.dim, dtype=network.dtype, device=network.device
            )
            dist.broadcast(states_Nd, LEADER)
            network.logits(states_Nd)
            continue
        wanted, changes, tokens, pieces = rest
        if wanted != number:
            cache, number = network.cache(), wanted
        for name, *arguments in changes:
            getattr(cache, name)(*arguments)
        network.states(tokens, pieces, cache)


def _tell(group: Group, message: tuple[Any, ...]) -> None:
    dist.broadcast_object_list([message], LEADER, group=group.told)


def _told(group: Group) -> tuple[Any, ...]:
    held: list[Any] = [None]
    dist.broadcast_object_list(held, LEADER, group=group.told)
    message: tuple[Any, ...] = held[0]
    return message

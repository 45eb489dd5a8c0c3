"""Whether the machines of a run are alive, by beats in the store that all of them share.

A machine without power ends no connection: whoever waits for its processes waits until PyTorch
gives up, which takes minutes (NCCL) or half an hour (Gloo). Launchers listen to each other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from llama_cli.errors import LlamaError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

SILENT = 60.0  # seconds without a beat after which a machine counts as lost; ours


class Pulse:
    """The beats of one round's machines."""

    def __init__(self, store: Store, node: int, machines: Sequence[str], host: str) -> None:
        """Begin to be heard.

        Args:
            store: of this round.
            node: this machine's number.
            machines: all of them, by address.
            host: where they meet.
        """
        self._store, self._node, self._machines, self._host = store, node, machines, host
        self._heard = dict.fromkeys(range(len(machines)), (b"", time.monotonic()))

    def silent(self) -> str | None:
        """Name a machine that has been silent for long, if one has; and let this one be heard.

        Raises:
            LlamaError: it is the one where all meet, without which none can go on.
        """
        for node, beat in enumerate(self._beats()):
            if beat != self._heard[node][0]:
                self._heard[node] = beat, time.monotonic()
        since = time.monotonic() - SILENT
        silent = [node for node, (_, when) in self._heard.items() if when < since]
        if self._node in silent:  # what it says itself does not arrive
            raise LlamaError(
                f"{self._host}, where the machines meet, is silent",
                hint="the same command again, on every machine",
            )
        return f"the machine at {self._machines[silent[0]]} is silent" if silent else None

    def _beats(self) -> Sequence[bytes]:
        with suppress(Exception):
            self._store.add(_key(self._node), 1)
            beats: Sequence[bytes] = self._store.multi_get(
                [_key(node) for node in range(len(self._machines))]
            )
            return beats
        return ()


def begin(store: Store, node: int) -> None:
    """Beat once, before others listen."""
    store.add(_key(node), 1)


def _key(node: int) -> str:
    return f"beat/{node}"

"""Where the launchers of several machines meet, and agree on who is which rank.

By torchrun's rendezvous (c10d) in a store that one of them holds: between the fewest and the most
machines, again whenever one has gone or another waits. Its rounds are PyTorch's; that the first
machine is the one where all meet, or that --node-rank decides, is ours.

The ranks find each other through a store of their own, new each round, which the launcher of the
first machine holds: it outlives them, and nothing of the round before is in it.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from llama_cli.errors import LlamaError
from llama_cli.training.place import PORT, Place
from llama_cli.training.pulse import Pulse, begin

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store, TCPStore
    from torch.distributed.elastic.rendezvous import RendezvousHandler

MEET = 1800  # seconds in which the fewest machines must have come; ours
LAST_CALL = 10  # seconds for more machines once there are enough; ours
LEAVE = 10.0  # seconds in which the others must have heard how the run ended; ours
ANSWER = 60.0  # seconds that a store has to answer; ours
HEAR = 3.0  # seconds to hear whether another machine has ended the run; ours
LOOPBACK, LOCAL = "127.0.0.1", ("127.", "::1")
SIOCGIFADDR = 0x8915  # <linux/sockios.h>: the IPv4 address of an interface
AGAIN = "the same command again, on every machine"


@dataclass(frozen=True, slots=True)
class World:
    """All processes of a run, and which of them are this machine's."""

    node: int  # this machine's number
    nodes: int
    first: int  # rank of this machine's first process
    size: int  # ranks
    address: str  # of the ranks' store
    port: int
    interface: str | None = None  # through which this machine reaches the others, if known

    @property
    def words(self) -> str:
        """Say how many there are.

        >>> World(0, 2, 0, 8, "", 0).words
        '8 processes on 2 machines'
        """
        where = "1 machine" if self.nodes == 1 else f"{self.nodes} machines"
        return f"{self.size} {'process' if self.size == 1 else 'processes'} on {where}"


class Meeting:
    """The launchers of a run, one of which this is."""

    def __init__(self, place: Place, say: Callable[[str], None]) -> None:
        """Come to where they meet; a single machine has nowhere to go.

        Raises:
            LlamaError: nobody is there.
        """
        self.place = place
        self._server: TCPStore | None = None  # the ranks', on the first machine
        self._round: Store | None = None  # the launchers', of this round
        self._nodes = 1
        self._pulse: Pulse | None = None
        self._handler = _handler(place, say) if place.host else None

    def join(self, processes: int) -> World:
        """Wait for the others, and number all processes.

        Raises:
            LlamaError: they did not come, or the run has ended elsewhere.
        """
        if self._handler is None:
            return World(0, 1, 0, processes, LOOPBACK, self._serve(LOOPBACK))
        with _in_words(self.place):
            met = self._handler.next_rendezvous()
            self._round, self._nodes = met.store, met.world_size
            mine = _address_toward(self.place.host)
            if met.rank == 0:
                known = self.place.host if _is_mine(self.place.host) else mine
                met.store.set("store", f"{known} {self._serve(known)}")
            begin(met.store, met.rank)
            met.store.set(f"machine/{met.rank}", f"{processes} {mine}")
            said = [met.store.get(f"machine/{node}") for node in range(met.world_size)]
            address, port = met.store.get("store").decode().split()
        counts, addresses = zip(*(word.decode().split() for word in said), strict=True)
        ranks = [int(count) for count in counts]
        self._pulse = Pulse(met.store, met.rank, addresses, self.place.host)
        return World(
            met.rank,
            met.world_size,
            sum(ranks[: met.rank]),
            sum(ranks),
            address,
            int(port),
            _interface(mine, addresses),
        )

    def somebody_waits(self) -> bool:
        """Tell whether another machine wants to take part."""
        if self._handler is None:
            return False
        with suppress(Exception):  # its store has gone; the processes will notice
            return bool(self._handler.num_nodes_waiting() > 0)
        return False

    def silent(self) -> str | None:
        """Name a machine that has said nothing for long, if one has; and let this one be heard.

        Raises:
            LlamaError: it is the one where all meet.
        """
        return self._pulse.silent() if self._pulse else None

    def leave(self, code: int) -> None:
        """Tell the others that the run has ended, and wait until they have heard it."""
        shared = self._round
        if self._handler is None or shared is None:
            return
        with suppress(Exception):  # who has gone need not be told
            shared.set("ended", str(code))
            shared.add("left", 1)
            _wait(lambda: shared.add("left", 0) >= self._nodes, LEAVE)
        with suppress(Exception):
            self._handler.shutdown()

    def ended(self) -> int | None:
        """Give the code with which another machine has ended the run, if one has."""
        shared = self._round
        if shared is None or self._nodes == 1:
            return None
        with suppress(Exception):
            if _wait(lambda: shared.check(["ended"]), HEAR):
                return int(shared.get("ended"))
        return None

    def _serve(self, address: str) -> int:
        self._server = _tcp_store(address, 0, hold=True)
        return int(self._server.port)


def _handler(place: Place, say: Callable[[str], None]) -> RendezvousHandler:
    from torch.distributed.elastic.rendezvous import RendezvousParameters
    from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler

    with _in_words(place):
        store = _store(place, say)
        backend = C10dRendezvousBackend(store, "llama")
    parameters = RendezvousParameters(
        backend="c10d",
        endpoint=f"{place.host}:{place.port}",
        run_id="llama",
        min_nodes=place.fewest,
        max_nodes=place.most,
        local_addr=_order(place),
        join_timeout=MEET,
        last_call_timeout=LAST_CALL,
    )
    return create_handler(store, backend, parameters)


def _order(place: Place) -> str:
    """Give the word by which PyTorch orders the machines; it would be an address."""
    if place.node_rank is not None:
        return f"{place.node_rank:06d}"
    return "0" if _is_mine(place.host) else f"1 {_address_toward(place.host)}"


def _store(place: Place, say: Callable[[str], None]) -> Store:
    """Hold the store where all meet, or reach it."""
    if _is_mine(place.host):
        with suppress(RuntimeError):  # another launcher on this machine holds it
            return _tcp_store(place.host, place.port, hold=True)
    _reach(place, say)
    return _tcp_store(place.host, place.port, hold=False)


def _tcp_store(host: str, port: int, *, hold: bool) -> TCPStore:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store: TCPStore = TCPStore(
        host, port, is_master=hold, wait_for_workers=False, timeout=timedelta(seconds=ANSWER)
    )
    return store


def _reach(place: Place, say: Callable[[str], None]) -> None:
    """Wait until somebody answers, in steps short enough for Ctrl-C."""
    told = False

    def answers() -> bool:
        nonlocal told
        try:
            socket.create_connection((place.host, place.port), 2).close()
        except socket.gaierror as error:
            raise LlamaError(f"--rdzv {place.host}: {error.strerror}") from None
        except OSError:
            if not told:
                say(f"waiting for a launcher at {place.host}:{place.port}")
            told = True
            return False
        return True

    if not _wait(answers, MEET, every=0.5):
        raise LlamaError(f"nobody answers at {place.host}:{place.port}", hint=AGAIN)


def _is_mine(host: str) -> bool:
    """Tell whether an address is this machine's: whether one may listen there."""
    with suppress(OSError):
        for family, kind, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            with socket.socket(family, kind) as door:
                door.bind(address)
                return True
    return False


def _address_toward(host: str) -> str:
    """Give the address from which this machine reaches another; nothing is sent."""
    family, kind, _, _, address = socket.getaddrinfo(host, PORT, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as line:
        line.connect(address)
        return str(line.getsockname()[0])


def _interface(mine: str, addresses: Sequence[str]) -> str | None:
    """Name the interface through which this machine reaches the others.

    Where /etc/hosts gives a machine's own name the address 127.0.1.1, as Debian does, that name
    leads nowhere from the others, and Gloo would wait for them there.

    >>> _interface("127.0.0.1", ["127.0.0.1"])
    'lo'
    """
    if mine.startswith(LOCAL):
        others = [address for address in addresses if not address.startswith(LOCAL)]
        mine = _address_toward(others[0]) if others else mine
    for _, name in socket.if_nameindex():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line, suppress(OSError):
            request = struct.pack("256s", name.encode()[:15])
            held = fcntl.ioctl(line, SIOCGIFADDR, request)[20:24]
            if socket.inet_ntoa(held) == mine:
                return name
    return None


def _wait(done: Callable[[], object], seconds: float, *, every: float = 0.05) -> bool:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(every)
    return True


@contextmanager
def _in_words(place: Place) -> Iterator[None]:
    """Say in our way why machines do not meet."""
    from torch.distributed import DistError
    from torch.distributed.elastic.rendezvous import (
        RendezvousClosedError,
        RendezvousError,
        RendezvousTimeoutError,
    )

    where = f"{place.host}:{place.port}"
    try:
        yield
    except RendezvousClosedError:
        raise LlamaError("the run has ended on another machine", hint=AGAIN) from None
    except RendezvousTimeoutError:
        raise LlamaError(
            f"fewer than {place.fewest} machines came to {where} in {MEET // 60} minutes",
            hint=AGAIN,
        ) from None
    except (RendezvousError, DistError, OSError) as error:
        text = str(error.__cause__ or error).splitlines()[0]
        raise LlamaError(f"the machines cannot meet at {where}: {text}", hint=AGAIN) from None

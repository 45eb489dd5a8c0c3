"""What the machine draws, in watts, where there is a meter that may be read.

    NVIDIA GPUs   the driver's count of the energy since it was loaded (Volta and newer), for
                  each GPU by its UUID; a difference of counts, not polled power
    processors    RAPL's counts in /sys/class/powercap, which Linux lets only root read by
                  default: of the whole platform where there is one (psys), else of the packages
                  and their memory. intel-rapl-mmio counts the packages a second time

Where nothing can be read the answer is None, never a guess.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

RAPL = Path("/sys/class/powercap")
SECONDS = 1.0  # the least between two readings: counters move 10 to 50 times a second; ours

Joules = Callable[[], "float | None"]  # since some moment


class Meter:
    """Mean watts since the reading before, taken a second ago or more."""

    def __init__(self, joules: Joules, clock: Callable[[], float]) -> None:
        self._joules, self._clock = joules, clock
        self._then: tuple[float, float] | None = None
        self._watts: float | None = None
        self()

    def __call__(self) -> float | None:
        """Give watts; None before the first second, and where nothing can be read."""
        now = self._clock()
        if self._then and now - self._then[0] < SECONDS:
            return self._watts
        found = self._joules()
        if self._then and found is not None:
            self._watts = (found - self._then[1]) / (now - self._then[0])
        self._then = None if found is None else (now, found)
        self._watts = None if found is None else self._watts
        return self._watts


def of_processors(clock: Callable[[], float], root: Path = RAPL) -> Meter:
    """Measure the processors of this machine, and their memory where that is counted."""
    counters = list(map(_Counter, _zones(root)))

    def joules() -> float | None:
        found = [counter.joules() for counter in counters]
        return None if not found or None in found else sum(each for each in found if each)

    return Meter(joules, clock)


def of_gpus(uuids: Sequence[str], clock: Callable[[], float], library: Any = None) -> Meter:
    """Measure NVIDIA GPUs, named as the driver does: "GPU-8d1e...".

    `library` is libnvidia-ml, for tests.
    """
    handles: list[ctypes.c_void_p] = []
    with suppress(OSError):
        library = library or ctypes.CDLL("libnvidia-ml.so.1")
        if library.nvmlInit_v2() == 0:
            handles = [_handle(library, uuid) for uuid in uuids]

    def joules() -> float | None:
        found = [_millijoules(library, handle) for handle in handles]
        return None if not found or None in found else sum(each for each in found if each) / 1e3

    return Meter(joules, clock)


class _Counter:
    """One of RAPL's counts, which begins anew at its highest value."""

    def __init__(self, zone: Path) -> None:
        self._path, self._more = zone / "energy_uj", 0
        self._range = _number(zone / "max_energy_range_uj") or 0
        self._last: int | None = None

    def joules(self) -> float | None:
        """Read it; None if that is not allowed."""
        now = _number(self._path)
        if now is None:
            return None
        if self._last is not None and now < self._last:
            self._more += self._range
        self._last = now
        return (now + self._more) / 1e6


def _zones(root: Path) -> list[Path]:
    """List the counts that together are the machine, each part once."""
    top = sorted(root.glob("intel-rapl:[0-9]*"))
    named = {zone: _word(zone / "name") for zone in top}
    whole = [zone for zone, name in named.items() if name == "psys"]
    if whole:
        return whole
    packages = [zone for zone, name in named.items() if name.startswith("package")]
    inner = [zone for zone, name in named.items() if name == "dram"]
    return packages + inner


def _word(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _handle(library: Any, uuid: str) -> ctypes.c_void_p:
    handle = ctypes.c_void_p()
    library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle))
    return handle  # null where there is no such GPU, and then it cannot be read


def _millijoules(library: Any, handle: ctypes.c_void_p) -> int | None:
    if not handle:
        return None
    count = ctypes.c_ulonglong()
    failed = library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(count))
    return None if failed else count.value

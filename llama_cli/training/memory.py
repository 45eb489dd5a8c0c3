"""The most memory that this process has had."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")


def peak_memory(device: torch.device) -> int:
    """Count bytes: allocated by tensors on a GPU; resident in memory on a CPU."""
    if device.type == "cuda":  # pragma: no cover (gpu)
        return int(torch.cuda.max_memory_allocated(device))
    return resident(STATUS)


def resident(status: Path) -> int:
    """Read VmHWM; the getrusage of a process starts with what its parent had."""
    try:
        found = re.search(rb"VmHWM:\s*(\d+) kB", status.read_bytes())
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""How fast a device could be, so that MFU says how much of it training uses.

Model FLOPs utilisation (Chowdhery et al., 2022, appendix B): FLOPs that the model needs, per
second (`flops_per_token` of parallel/plan.py), over the device's peak.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

from llama_cli.training.settings import DType

# Peak dense FLOP/s by GPU name, bf16 and fp32 (tensor cores not used), from NVIDIA's sheets.
PEAKS = (
    ("H200", 989e12, 67e12),
    ("H100 PCIe", 756e12, 51e12),
    ("H100", 989e12, 67e12),
    ("A100", 312e12, 19.5e12),
    ("L40S", 362e12, 91.6e12),
    ("L4", 121e12, 30.3e12),
    ("RTX 4090", 165e12, 82.6e12),
    ("RTX 3090", 71e12, 35.6e12),
)
CPU_BF16 = ("avx512_bf16", "amx_bf16")
SIDE, TIMES = 1024, 8  # of the matrices measured on a CPU, and how often; the best counts; ours


def native_dtype(device: str) -> DType:
    """Choose bf16 where products in it are quicker: on newer GPUs, and CPUs that have it."""
    if device == "cuda":  # pragma: no cover (gpu)
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    able = torch.cpu.get_capabilities()
    return "bf16" if any(able.get(name) for name in CPU_BF16) else "fp32"


def peak_flops(
    device: torch.device, dtype: DType, cpu_clock: Callable[[], float]
) -> tuple[float | None, str]:
    """Give peak FLOP/s and where the figure is from; None for a GPU that is not listed.

    `cpu_clock` counts the processor's seconds that this process had, so that the figure of a
    CPU does not depend on its neighbours.
    """
    if device.type == "cpu":
        return _measured(dtype, cpu_clock), "fastest of 8 matrix products at the start"
    name = torch.cuda.get_device_name(device)  # pragma: no cover (gpu)
    return published_peak(name, dtype), f"data sheet of {name}"  # pragma: no cover (gpu)


def published_peak(name: str, dtype: DType) -> float | None:
    """Look up a GPU by the name its driver gives it.

    >>> published_peak("NVIDIA A100-SXM4-80GB", "bf16")
    312000000000000.0
    """
    for known, bf16, fp32 in PEAKS:
        if re.search(rf"\b{known}\b", name):  # an L40 is no L4
            return bf16 if dtype == "bf16" else fp32
    return None


def _measured(dtype: DType, cpu_clock: Callable[[], float]) -> float:
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    left, right = (torch.ones(SIDE, SIDE, dtype=kind) for _ in range(2))
    best = 0.0  # FLOPs a processor's second
    for _ in range(TIMES):
        start = cpu_clock()
        left @ right
        best = max(best, 2.0 * SIDE**3 / max(cpu_clock() - start, 1e-9))
    return best * torch.get_num_threads()

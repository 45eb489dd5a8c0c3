"""GPUs to plan for, as plain data, and a cluster of them.

Peaks, memory bandwidth, NVLink and watts are of NVIDIA's data sheets; memory is what CUDA reports
of it. `products` is the fastest product that was measured on it at any shape, from the table of
"maximum achievable matmul FLOPS" in Bekman, "Machine Learning Engineering Open Book"
(https://github.com/stas00/ml-engineering, compute/accelerator, 2025; the H100's is the H200's).
`network` is that of the machine NVIDIA sells around it (DGX: one adapter a GPU); many clouds have
a quarter of it, so it is an option of `llama train --dry-run`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GPU:
    """One kind of GPU, in the machine it is usually in."""

    peak: float  # bf16 FLOP/s, dense
    products: float  # FLOP/s, measured, of the best shape
    memory: float  # bytes
    bandwidth: float  # bytes/s of its memory
    nvlink: float  # bytes/s each way
    watts: float  # thermal design power
    node: int = 8  # GPUs that NVLink joins
    network: float = 1600  # Gb/s a node, each way


GPUS: Mapping[str, GPU] = {
    "a100-40gb": GPU(312e12, 271.2e12, 42.3e9, 1.555e12, 300e9, 400),
    "a100-80gb": GPU(312e12, 271.2e12, 84.9e9, 2.039e12, 300e9, 400),
    "h100": GPU(989e12, 794.5e12, 84.9e9, 3.35e12, 450e9, 700, network=3200),
    "h200": GPU(989e12, 794.5e12, 150.1e9, 4.8e12, 450e9, 700, network=3200),
    "b200": GPU(2250e12, 1745e12, 191.5e9, 8.0e12, 900e9, 1000, network=3200),
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """Nodes of one kind of GPU."""

    name: str  # of the GPU
    gpu: GPU
    gpus: int
    node: int  # GPUs in each
    network: float  # bytes/s a node, each way

    @property
    def nodes(self) -> int:
        """Count the nodes; the last may be in part in use."""
        return -(-self.gpus // self.node)


def machines(
    name: str, gpus: int, *, node: int | None = None, network: float | None = None
) -> Cluster:
    """Put `gpus` GPUs of a known kind together.

    Args:
        name: of GPUS.
        gpus: of the run.
        node: in each node; as they are usually sold, if None.
        network: of each node, Gb/s each way; as they are usually sold, if None.

    >>> machines("a100-80gb", 2048).nodes, machines("a100-80gb", 2048).network / 1e9
    (256, 200.0)
    """
    gpu = GPUS[name]
    each = min(node or gpu.node, gpus)
    return Cluster(name, gpu, gpus, each, (network or gpu.network) * 1e9 / 8)

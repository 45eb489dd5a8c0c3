"""Time the attention kernels against PyTorch's, and print one table: `make gpu`.

FLOPs by the usual convention: 4 L^2 D a head forward, halved for the mask, and 2.5 times that
backward (Dao 2023, section 4.1). Medians over CUDA events. Batch times length is 16,384.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from llama_cli.kernels import extension

TOKENS, HEADS, SIZE = 16_384, 16, 128  # ours; as many heads as fill the card
LENGTHS = (1_024, 2_048, 4_096, 8_192, 16_384)
MATH_UP_TO = 2_048  # length; it keeps every score
WARM_UPS, RUNS = 5, 20  # ours
THEIRS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def milliseconds(call: Callable[[], object]) -> float:
    """Return the median time of `call` on the GPU."""
    times = []
    for run in range(WARM_UPS + RUNS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        if run >= WARM_UPS:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def rates(attend: Callable[..., Tensor], length: int) -> tuple[float, float]:
    """Return the TFLOP/s of the forward and of the backward."""
    shape = (TOKENS // length, length, HEADS, SIZE)
    q, k, v, grad = (
        torch.randn(shape, device="cuda", dtype=torch.bfloat16).transpose(1, 2) for _ in range(4)
    )
    leaves = [x.requires_grad_() for x in (q, k, v)]
    with torch.no_grad():
        forward = milliseconds(lambda: attend(*leaves))
    out = attend(*leaves)
    backward = milliseconds(lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True))
    work = 4 * length**2 * SIZE * HEADS * shape[0] / 2 / 1e9  # GFLOP; over ms this is TFLOP/s
    return work / forward, 2.5 * work / backward


def theirs(backend: SDPBackend) -> Callable[..., Tensor]:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, is_causal=True)

    return attend


def row(name: str, attend: Callable[..., Tensor], lengths: tuple[int, ...]) -> str:
    """Time one attention at all lengths; a dash where it was not run, its error where it cannot."""
    cells = []
    for length in LENGTHS:
        try:
            cell = "{:.0f} / {:.0f}".format(*rates(attend, length)) if length in lengths else "-"
        except RuntimeError as error:
            cell = str(error).splitlines()[0][:40]
        cells.append(cell)
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    reason = extension.available("cuda")
    if reason:
        raise SystemExit(f"nothing to time: the cuda kernel {reason}")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bf16, d {SIZE}, causal")
    print("TFLOP/s forward / backward, by length:")
    print(f"| attention | {' | '.join(f'{length:,}' for length in LENGTHS)} |")
    print("|---" * (1 + len(LENGTHS)) + "|")
    print(row("ours", extension.causal_attention, LENGTHS))
    for name, backend in THEIRS.items():
        lengths = tuple(x for x in LENGTHS if name != "math" or x <= MATH_UP_TO)
        print(row(f"sdpa {name}", theirs(backend), lengths))


if __name__ == "__main__":
    main()

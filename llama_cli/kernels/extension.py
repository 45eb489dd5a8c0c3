"""The causal attention of `cuda_ext` as a torch operator, forward and backward.

The library is plain C: pointers, sizes and a stream. Here its arguments are checked and
passed by ctypes, and the calls become two operators, `llama::causal_attention` and
`llama::causal_attention_backward`, that autograd and torch.compile see as opaque.
Kept for the backward: q, k, v, out and one float a row (lse); no attention weight.
Legend: B batch, H heads, L length, D head width.
"""

from __future__ import annotations

import ctypes
import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cuda_ext import LIBRARY
from llama_cli.errors import LlamaError, NotReadyError

VERSION = 1  # of the C interface, cuda_ext/problem.h
HEAD_SIZES = (64, 128)
MOST_BLOCKS = 65_535  # of a CUDA grid's second and third axis
DRIVER_TOO_OLD = 35  # cudaErrorInsufficientDriver
INSTEAD = "llama train --attention sdpa"

Library = ctypes.CDLL
libraries: dict[str, Library] = {}  # by device type, once opened; tests put an emulated one here


class Matrix(ctypes.Structure):
    """A tensor (B, H, L, D) as C sees it; strides in elements."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        *((axis, ctypes.c_int64) for axis in ("batch", "head", "row")),
    )


class Problem(ctypes.Structure):
    """The struct of cuda_ext/problem.h."""

    _fields_ = (
        *((x, Matrix) for x in ("q", "k", "v", "out", "grad_out", "grad_q", "grad_k", "grad_v")),
        *((x, ctypes.c_void_p) for x in ("lse", "delta")),
        *((x, ctypes.c_int32) for x in ("batch", "heads", "length", "head_size", "half")),
        ("scale", ctypes.c_float),
    )


def available(device: torch.device | str) -> str | None:
    """Say why the kernel cannot run on `device`; None when it can.

    >>> available("cpu")
    'runs on an NVIDIA GPU, not on a cpu'
    """
    device = torch.device(device)
    if device.type in libraries:
        return None
    if device.type != "cuda":
        return f"runs on an NVIDIA GPU, not on a {device.type}"
    if not LIBRARY.exists():
        return "is not built"
    if not torch.cuda.is_available():
        return "finds no NVIDIA GPU, or no driver that PyTorch can use"
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return "needs a GPU of compute capability 8.0 or newer, not {}.{}".format(*capability)
    try:
        library(device.type)
    except NotReadyError as error:
        return f"cannot be used: {error}"
    return None


def library(device: str) -> Library:
    """Return the library that runs on this type of device, opened once.

    Raises:
        ValueError: there is none for it.
        NotReadyError: it is not built, or of another version.
    """
    if device not in libraries:
        if device != "cuda":
            raise ValueError(f"q, k and v must be on an NVIDIA GPU, not on a {device}")
        libraries[device] = load(LIBRARY)
    return libraries[device]


def load(path: Path) -> Library:
    """Open a library and check that it speaks this version of the interface."""
    try:
        opened = ctypes.CDLL(str(path))
        version = opened.llama_attention_version()
    except (OSError, AttributeError) as error:
        raise NotReadyError(
            f"{path}: {error}", hint="LLAMA_BUILD_CUDA=1 pip install -e ."
        ) from None
    if version != VERSION:
        raise NotReadyError(
            f"{path}: of version {version}, not {VERSION}",
            hint="LLAMA_BUILD_CUDA=1 pip install -e .",
        )
    opened.llama_attention_error.restype = ctypes.c_char_p
    for function in (opened.llama_attention_forward, opened.llama_attention_backward):
        function.argtypes = [ctypes.POINTER(Problem), ctypes.c_void_p]
    return opened


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax(q k' / sqrt(D)) v over earlier positions, in memory linear in length.

    Args:
        q, k, v: (B, H, L, D) of one shape, all bf16 or all fp16, on one GPU; D is 64 or 128,
            the last axis contiguous, other strides multiples of 8 elements.

    Returns:
        (B, H, L, D), same dtype, laid out in memory as (B, L, H, D). Sums are kept in fp32.
        Gradients are the same bits in every run.

    Raises:
        ValueError: shapes, dtypes, devices or strides do not agree with the above.
        NotReadyError: the library is not built, or the driver is too old for it.
    """
    out: Tensor = forward(q, k, v)[0]
    return out


@torch.library.custom_op("llama::causal_attention", mutates_args=())
def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return out, like q, and lse, (B, H, L) in fp32."""
    check(q, k, v)
    out, lse = empty_results(q)
    run("forward", q, {"q": q, "k": k, "v": v, "out": out, "lse": lse})
    return out, lse


@torch.library.custom_op("llama::causal_attention_backward", mutates_args=())
def backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v."""
    check(q, k, v)
    assert out.shape == grad_out.shape == q.shape
    assert lse.shape == q.shape[:3]
    if not movable(grad_out):  # what follows us decides how it lies: out.sum() gives stride 0
        grad_out = grad_out.contiguous()
    grads = (empty(q), empty(q), empty(q))
    tensors = {"q": q, "k": k, "v": v, "out": out, "grad_out": grad_out}
    tensors |= dict(zip(("grad_q", "grad_k", "grad_v"), grads, strict=True))
    run("backward", q, tensors | {"lse": lse, "delta": torch.empty_like(lse)})
    return grads


@forward.register_fake
def empty_results(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """Make room for out and lse."""
    return empty(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@backward.register_fake
def _(q: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return empty(q), empty(q), empty(q)


def empty(q: Tensor) -> Tensor:
    """Make room for a tensor like q, heads innermost but one: what a model multiplies next."""
    batch, heads, length, size = q.shape
    return q.new_empty(batch, length, heads, size).transpose(1, 2)


def keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Any) -> None:
    """Save what the backward reads."""
    q, k, v = inputs
    out, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(q, k, v, out, lse)


def differentiate(ctx: Any, grad_out: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Hand autograd the backward operator."""
    q, k, v, out, lse = ctx.saved_tensors
    grads: tuple[Tensor, Tensor, Tensor] = backward(q, k, v, out, lse, grad_out)
    return grads


forward.register_autograd(differentiate, setup_context=keep)


def check(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError, with one sentence, for what the kernel cannot take."""
    check_shapes(q, k, v)
    for x in (k, v):
        if x.dtype != q.dtype or x.device != q.device:
            kinds = f"{q.dtype} on {q.device} and {x.dtype} on {x.device}"
            raise ValueError(f"q, k, v must be of one dtype and on one device, not {kinds}")
    if q.dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(f"q, k, v must be torch.bfloat16 or torch.float16, not {q.dtype}")
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not movable(x):
            raise ValueError(
                f"{name} must start at a multiple of 16 bytes, its last axis contiguous and its "
                f"other strides multiples of 8 elements, not {x.stride()}"
            )


def check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError for sizes that do not agree, or that the kernel is not made for."""
    shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
    if not q.shape == k.shape == v.shape or q.dim() != 4:
        raise ValueError(f"q, k, v must share one shape (batch, heads, length, d), not {shapes}")
    if q.shape[-1] not in HEAD_SIZES:
        raise ValueError(f"d must be 64 or 128, not {q.shape[-1]}")
    if 0 in q.shape:
        raise ValueError(f"batch, heads and length must be at least 1, not {tuple(q.shape[:3])}")
    if max(q.shape[:2]) > MOST_BLOCKS:
        raise ValueError(f"batch and heads must be at most {MOST_BLOCKS}, not {tuple(q.shape[:2])}")


def movable(x: Tensor) -> bool:
    """Say whether every 8 elements of a row are 16 aligned bytes (cp.async moves that many).

    >>> movable(torch.zeros(1, 2, 3, 8)), movable(torch.zeros(1, 2, 3, 12))
    (True, False)
    """
    strides = [s for s, size in zip(x.stride()[:-1], x.shape[:-1], strict=True) if size > 1]
    return x.stride(-1) == 1 and x.data_ptr() % 16 == 0 and not any(s % 8 for s in strides)


def run(direction: str, q: Tensor, tensors: dict[str, Tensor]) -> None:
    """Call the library on q's device and its current stream."""
    opened = library(q.device.type)
    batch, heads, length, head_size = q.shape
    problem = Problem(
        **{name: pack(x) for name, x in tensors.items()},
        batch=batch,
        heads=heads,
        length=length,
        head_size=head_size,
        half=q.dtype == torch.float16,
        scale=1 / math.sqrt(head_size),
    )
    place, stream = where(q.device)
    with place:
        code = getattr(opened, f"llama_attention_{direction}")(problem, stream)
    if code:
        raise failure(code, opened.llama_attention_error(code).decode())


def pack(x: Tensor) -> Matrix | int:
    """Turn a tensor into what C takes: a Matrix, or for a float a row its address."""
    return Matrix(x.data_ptr(), *x.stride()[:3]) if x.dim() == 4 else x.data_ptr()


def where(device: torch.device) -> tuple[AbstractContextManager[Any], int]:
    """Return what makes `device` the current one, and its stream."""
    if device.type != "cuda":
        return nullcontext(), 0
    return torch.cuda.device(device), torch.cuda.current_stream(device).cuda_stream


def failure(code: int, message: str) -> LlamaError:
    """Make an error of what the library returned.

    >>> print(failure(700, "an illegal memory access was encountered"))
    the attention kernel failed: an illegal memory access was encountered (error 700)
    """
    if code == DRIVER_TOO_OLD:
        return NotReadyError(
            "the NVIDIA driver is older than the CUDA that built the attention kernel (error 35)",
            hint=INSTEAD,
        )
    return LlamaError(f"the attention kernel failed: {message} (error {code})", hint=INSTEAD)

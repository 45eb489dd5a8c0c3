"""Causal attention, on whichever backend is present.

LLaMA, section 2.4, uses an attention that never stores the score matrix and never
computes the half that the mask hides. `cuda` is ours (cuda_ext), on a GPU, where it was built;
PyTorch's `sdpa` runs elsewhere; `xformers` and `reference` are there to compare with (`backends`).
Legend: B batch, H heads, G key heads, L queries, T keys (L, and those before them), D head width.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from operator import index
from typing import Protocol

import torch
from torch import Tensor

from llama_cli.errors import NotReadyError, UsageError
from llama_cli.kernels import VARIABLE, backends, extension, proof
from llama_cli.kernels.library import BUILD, DTYPES, HEAD_SIZES, INSTEAD, available

BACKENDS = ("auto", "cuda", "sdpa", "xformers", "reference")
IN_BF16 = "llama train --dtype bf16, or LLAMA_TRAIN_ATTENTION=sdpa for a model in fp32"


class Attend(Protocol):
    """What the backends but `cuda` look like."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bounds: Tensor | None = None) -> Tensor:
        """Map q, k, v to a tensor like q."""
        ...


ATTEND: dict[str, Attend] = {
    "sdpa": backends.sdpa,
    "xformers": backends.xformers,
    "reference": backends.reference,
}


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend that runs on a device, and why."""

    name: str
    device: str
    why: str
    failed: bool = False  # whether the kernel is there, and computes something else

    def __str__(self) -> str:
        return f"{self.name} on {self.device}: {self.why}"


def choose(
    device: torch.device | str, dtype: torch.dtype, head_size: int, asked: str | None = None
) -> Choice:
    """Choose what runs on `device` for heads of `head_size` in `dtype`.

    `asked`, or else LLAMA_TRAIN_ATTENTION, overrides the choice of `auto`: the kernel of
    cuda_ext where it can run and, tried once a process (`proof`), computes what it should, and
    PyTorch's SDPA elsewhere. A backend that is asked for by name and cannot run is an error,
    never a silent fallback.

    Raises:
        UsageError: no backend has that name.
        NotReadyError: the backend is not built, not installed, or not for this device, dtype
            or head size.

    >>> print(choose("cpu", torch.bfloat16, 128, "auto"))
    sdpa on cpu: the cuda kernel runs on an NVIDIA GPU, not on a cpu
    """
    device = _whole(device)
    name = asked or os.environ.get(VARIABLE) or "auto"
    if name not in BACKENDS:
        raise UsageError(f"attention is one of {', '.join(BACKENDS)}, not '{name}'")
    if name == "auto":
        return _automatic(device, dtype, head_size)
    missing = _missing(name, device, dtype, head_size)
    if missing:
        raise NotReadyError(f"attention backend '{name}' {missing[0]}", hint=missing[1])
    return Choice(name, str(device), "asked for by name")


def _whole(device: torch.device | str) -> torch.device:
    """Say which GPU "cuda" is, if there is one."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _automatic(device: torch.device, dtype: torch.dtype, head_size: int) -> Choice:
    missing = _missing("cuda", device, dtype, head_size)
    if missing:
        return Choice("sdpa", str(device), f"the cuda kernel {missing[0]}")
    fault = proof.fault(device, dtype)
    if fault:
        why = f"the cuda kernel failed its trial: {fault}"
        return Choice("sdpa", str(device), why, failed=True)
    return Choice("cuda", str(device), "the cuda kernel passed its trial")


def _missing(
    name: str, device: torch.device, dtype: torch.dtype, head_size: int
) -> tuple[str, str] | None:
    """Say why `name` cannot run, and the cure."""
    if name == "cuda":
        return _kernel_missing(device, dtype, head_size)
    if name == "xformers" and importlib.util.find_spec("xformers") is None:
        return "is not installed", "pip install 'llama[xformers]'"
    if name == "xformers" and device.type != "cuda":
        return f"does not run on a {device.type}", INSTEAD
    return None


def _kernel_missing(
    device: torch.device, dtype: torch.dtype, head_size: int
) -> tuple[str, str] | None:
    reason = available(device)
    if reason:
        return reason, BUILD if reason == "is not built" else INSTEAD
    if dtype not in DTYPES:
        found = str(dtype).removeprefix("torch.")
        return f"computes in bf16 and fp16, not in {found}", IN_BF16
    if head_size not in HEAD_SIZES:
        return f"has heads of 64 and 128, not of {head_size}", INSTEAD
    return None


def backend(
    device: torch.device, dtype: torch.dtype, head_size: int, asked: str | None = None
) -> str:
    """Name what `choose` chooses."""
    return choose(device, dtype, head_size, asked).name


# As in `sharding`: torch.compile runs this while it traces a model, and keeps the name.
backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bounds: Tensor | None = None,
    deterministic: bool = True,
    asked: str | None = None,
) -> Tensor:
    """Softmax(q k' / sqrt(D)) v over earlier positions.

    Args:
        q: (B, H, L, D); its L positions are the last of the T that k and v hold.
        k, v: (B, G, T, D), of q's dtype and device; T >= L, and G divides H: head h reads key
            head h // (H / G).
        bounds: (2, B, L) of `documents`, where L = T: documents that do not see each other.
            Memory is then linear in length with `cuda` and `xformers` only.
        deterministic: whether the gradients of `cuda` are the same bits in every run; what the
            others do is PyTorch's matter.
        asked: a backend by name; None lets `choose` choose.

    Returns:
        (B, H, L, D), same dtype. `cuda` and `xformers` are written for training, where L = T;
        `sdpa` stands in for them where a cache makes T > L.

    Raises:
        ValueError: the shapes do not agree with the above.
        NotReadyError: a backend asked for by name cannot run.
    """
    _check(q, k, v, bounds)
    head_size = index(q.shape[-1])  # a number, also where torch.compile has a symbol for it
    name = backend(q.device, q.dtype, head_size, asked)
    if q.shape[2] != k.shape[2] and name != "reference":
        name = "sdpa"
    if name == "cuda":
        return extension.causal_attention(q, k, v, bounds=bounds, deterministic=deterministic)
    return ATTEND[name](q, k, v, bounds)


def _check(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor | None) -> None:
    if k.shape != v.shape or q.dim() != 4 or k.dim() != 4 or q.shape[-2] > k.shape[-2]:
        raise ValueError(
            "q must be (batch, heads, length, d) and k, v alike with at least its length, "
            f"not {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(
            f"the heads of q must be a multiple of those of k and v, not {q.shape[1]} "
            f"and {k.shape[1]}"
        )
    if bounds is not None and (
        bounds.shape != (2, q.shape[0], q.shape[2]) or q.shape[2] != k.shape[2]
    ):
        raise ValueError(
            "bounds must be (2, batch, length) for as many keys as queries, not "
            f"{tuple(bounds.shape)} for {tuple(q.shape)}, {tuple(k.shape)}"
        )

"""The attention kernel's library: found, opened, checked and called, all by ctypes.

The library is plain C, so that one file serves every Python and torch: pointers, sizes and a
stream go in (cuda_ext/problem.h), an error code comes out. Nothing here knows what it computes.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cuda_ext import LIBRARY, build
from llama_cli.errors import LlamaError, NotReadyError

VERSION = 2  # of the C interface, cuda_ext/problem.h
HEAD_SIZES = (64, 128)
DTYPES = (torch.bfloat16, torch.float16)
OLDEST_GPU = (8, 0)  # compute capability: A100
BUILD = "python -m cuda_ext.build"
BUILD_ANEW = f"LLAMA_BUILD_CUDA=1 {BUILD}"  # also where a torn file still names its sources
INSTEAD = "llama train --attention sdpa"

# of cudaError_t, in the words of their cure
DRIVER_TOO_OLD, NO_CODE_FOR_GPU = 35, (98, 209)  # 98 of a function's attributes, 209 of a launch

Library = ctypes.CDLL
libraries: dict[str, Library] = {}  # by device type, once opened; tests put an emulated one here


class Matrix(ctypes.Structure):
    """A tensor of four axes as C sees it; strides in elements."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        *((axis, ctypes.c_int64) for axis in ("batch", "head", "row")),
    )


class Problem(ctypes.Structure):
    """The struct of cuda_ext/problem.h."""

    _fields_ = (
        *((x, Matrix) for x in ("q", "k", "v", "out", "grad_out", "grad_q", "grad_k", "grad_v")),
        *((x, ctypes.c_void_p) for x in ("lse", "delta", "sums", "first", "end")),
        *((x, ctypes.c_int32) for x in ("batch", "heads", "key_heads", "length")),
        *((x, ctypes.c_int32) for x in ("head_size", "half")),
        ("scale", ctypes.c_float),
    )


def state() -> str:
    """Say in one line whether the library is built, and for what."""
    if not LIBRARY.exists():
        return f"not built; try: {BUILD}"
    try:
        load_fresh(LIBRARY)
    except NotReadyError as error:
        return f"cannot be used: {error}; try: {error.hint}"
    return f"built for {build.BUILT_FOR}"


def available(device: torch.device | str) -> str | None:
    """Say why the kernel cannot run on `device`; None when it can.

    >>> available("cpu")
    'runs on an NVIDIA GPU, not on a cpu'
    """
    device = torch.device(device)
    if device.type != "cuda":
        emulated = device.type in libraries
        return None if emulated else f"runs on an NVIDIA GPU, not on a {device.type}"
    if device.type not in libraries and not LIBRARY.exists():
        return "is not built"
    if not torch.cuda.is_available():
        return "finds no NVIDIA GPU, or no driver that PyTorch can use"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_GPU:
        return "needs a GPU of compute capability 8.0 or newer, not {}.{}".format(*capability)
    try:
        opened(device)
    except NotReadyError as error:
        return f"cannot be used: {error}"
    return None


def opened(device: torch.device) -> Library:
    """Return the library that runs on this type of device, opened once.

    Raises:
        ValueError: there is none for it.
        NotReadyError: it is not built, of another version, or not of these sources.
    """
    if device.type not in libraries:
        if device.type != "cuda":
            raise ValueError(f"q, k and v must be on an NVIDIA GPU, not on a {device.type}")
        libraries[device.type] = load_fresh(LIBRARY)
    return libraries[device.type]


def load_fresh(path: Path) -> Library:
    """Open the library, and see that it was built from the sources that lie beside it.

    Raises:
        NotReadyError: it was not, as in a checkout that has moved on; or as `load` says.
    """
    library = load(path)
    if not build.fresh(path):
        raise NotReadyError(f"{path}: built from other sources than are here", hint=BUILD)
    return library


def load(path: Path) -> Library:
    """Open a library and check that it speaks this version of the interface.

    Raises:
        NotReadyError: it is not there, not a library of ours, or of another version.
    """
    try:
        library = ctypes.CDLL(str(path))
        version = library.llama_attention_version()
    except (OSError, AttributeError) as error:
        raise NotReadyError(f"{path}: {error}", hint=BUILD_ANEW) from None
    if version != VERSION:
        raise NotReadyError(f"{path}: of version {version}, not {VERSION}", hint=BUILD)
    library.llama_attention_error.restype = ctypes.c_char_p
    for function in (library.llama_attention_forward, library.llama_attention_backward):
        function.argtypes = [ctypes.POINTER(Problem), ctypes.c_void_p]
    return library


def run(direction: str, q: Tensor, tensors: Mapping[str, Tensor | None]) -> None:
    """Call the library on q's device and its current stream.

    Args:
        direction: "forward" or "backward".
        q: says the sizes, with the k of `tensors`.
        tensors: by name of the field of Problem, q too; None is a null pointer, as is absence.

    Raises:
        ValueError: no library runs on this device.
        NotReadyError: the library is not built, or this driver or GPU is too old for it.
        LlamaError: the launch failed.
    """
    library, k = opened(q.device), tensors["k"]
    assert k is not None
    batch, heads, length, head_size = q.shape
    problem = Problem(
        **{name: _pack(x) for name, x in tensors.items() if x is not None},
        batch=batch,
        heads=heads,
        key_heads=k.shape[1],
        length=length,
        head_size=head_size,
        half=q.dtype == torch.float16,
        scale=1 / math.sqrt(head_size),
    )
    place, stream = _where(q.device)
    with place:
        code = getattr(library, f"llama_attention_{direction}")(problem, stream)
    if code:
        raise failure(code, library.llama_attention_error(code).decode())


def _pack(x: Tensor) -> Matrix | int:
    """Turn a tensor into what C takes: a Matrix, or the address of what is read flat.

    An axis of one may have any stride. C gets 0: it makes addresses of rows that are not there,
    to be left unread, and even those must be aligned.
    """
    if x.dtype in DTYPES:
        axes = zip(x.stride()[:3], x.shape[:3], strict=True)
        return Matrix(x.data_ptr(), *(stride if size > 1 else 0 for stride, size in axes))
    return x.data_ptr()


def _where(device: torch.device) -> tuple[AbstractContextManager[Any], int]:
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
            "the NVIDIA driver is older than the CUDA that built the attention kernel "
            f"(error {code})",
            hint=INSTEAD,
        )
    if code in NO_CODE_FOR_GPU:
        return NotReadyError(
            f"the attention kernel needs a GPU of compute capability 8.0 or newer (error {code})",
            hint=INSTEAD,
        )
    return LlamaError(f"the attention kernel failed: {message} (error {code})", hint=INSTEAD)

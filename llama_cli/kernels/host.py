"""The processor's own kernel: a LLaMA's layers on rows of any lengths, in C (cuda_ext/host).

The library is plain C, one file for every Python and torch, with code for AVX-512, AVX2 and any
other processor in it; it reads weights where they lie, in fp32, bf16, fp16 or int8. Memory that
is pointed to is the caller's, who keeps it as long as a `Model` is used.
Legend: N tokens, d width, V vocabulary.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from cuda_ext.host import LIBRARY, build
from llama_cli.errors import NotReadyError

VERSION = 1  # of the C interface, cuda_ext/host/problem.h
PAGE = 16  # places of a page, cuda_ext/host/attention.h
BUILD = "python -m cuda_ext.host.build"
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}
VARIANTS = ("base", "avx2", "avx512")

_pointer, _int = ctypes.c_void_p, ctypes.c_int32


class CMatrix(ctypes.Structure):
    """A matrix as C sees it."""

    _fields_ = (
        *((name, _pointer) for name in ("at", "scale", "zero")),
        *((name, _int) for name in ("rows", "width", "kind", "unused")),
    )


class CLayer(ctypes.Structure):
    """The weights of one layer."""

    _fields_ = (
        *((name, _pointer) for name in ("attention_norm", "ffn_norm")),
        *((name, CMatrix) for name in ("wq", "wk", "wv", "wo", "w1", "w2", "w3")),
    )


class CModel(ctypes.Structure):
    """A model, and its shapes."""

    _fields_ = (
        ("layer", ctypes.POINTER(CLayer)),
        ("embedding", CMatrix),
        ("head", CMatrix),
        ("norm", _pointer),
        *((name, _int) for name in ("layers", "dim", "heads", "key_heads", "head_dim")),
        *((name, _int) for name in ("hidden", "vocab_size")),
        ("eps", ctypes.c_float),
    )


class CPiece(ctypes.Structure):
    """New tokens of the row `row` of the table of pages, from its place `start`."""

    _fields_ = (("row", ctypes.c_int64), ("start", _int), ("count", _int))


class CStep(ctypes.Structure):
    """Some tokens, where they belong, and room for what is made of them."""

    _fields_ = (
        *((name, _pointer) for name in ("tokens", "pieces", "pages")),
        ("pages_stride", ctypes.c_int64),
        *((name, _pointer) for name in ("turns", "states")),
        *((name, _int) for name in ("pieces_count", "tokens_count")),
    )


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix (M, K) by rows; in int8 with a factor a row, and 128 times the sum of each."""

    at: Tensor
    rows: int
    width: int
    scale_M: Tensor | None = None
    zero_M: Tensor | None = None

    def as_c(self) -> CMatrix:
        """Point to it.

        Raises:
            ValueError: its rows do not follow each other in the memory of a CPU.
        """
        if not self.at.is_contiguous() or self.at.device.type != "cpu":
            raise ValueError("a matrix whose rows follow each other in memory is wanted")
        extra = (0 if each is None else each.data_ptr() for each in (self.scale_M, self.zero_M))
        return CMatrix(self.at.data_ptr(), *extra, self.rows, self.width, KINDS[self.at.dtype])


def state() -> str:
    """Say in one line whether the library is built, and for what this processor takes of it."""
    try:
        return f"built; {VARIANTS[library().llama_host_variant()]} here"
    except NotReadyError as error:
        return f"{error}; try: {error.hint}"


def available() -> bool:
    """Say whether the kernel can run here."""
    try:
        library()
    except NotReadyError:
        return False
    return True


@cache
def library(path: Path = LIBRARY) -> ctypes.CDLL:
    """Open the library, once.

    Raises:
        NotReadyError: it is not built, cannot be opened, or is of another version or other sources.
    """
    if not path.exists():
        raise NotReadyError("not built", hint=BUILD)
    try:
        found = ctypes.CDLL(str(path))
        version = found.llama_host_version()
    except (OSError, AttributeError) as error:
        raise NotReadyError(f"cannot be opened: {error}", hint=BUILD) from None
    if version != VERSION:
        raise NotReadyError(f"of version {version}, not {VERSION}", hint=BUILD)
    if not build.fresh(path):
        raise NotReadyError("built from other sources than are here", hint=BUILD)
    return found


def run(
    model: CModel,
    tokens: Sequence[int],
    pieces: Sequence[tuple[int, int, int]],
    table_SP: Tensor,
    turns: Tensor,
) -> Tensor:
    """Give the states (N, d) of tokens, and put their keys and values into pages.

    Args:
        model: with everything it points to.
        tokens: of all pieces, one after the other.
        pieces: of each the row of the table, the place of its first token, and their number.
        table_SP: addresses (int64) of the pages of each row, for all its places so far.
        turns: cosine and sine of each place and pair, (places, D / 2, 2), fp32.
    """
    ids = (_int * len(tokens))(*tokens)
    own = (CPiece * len(pieces))(*(CPiece(*each) for each in pieces))
    states_Nd = torch.empty(len(tokens), model.dim)
    step = CStep(
        tokens=ctypes.addressof(ids),
        pieces=ctypes.addressof(own),
        pages=table_SP.data_ptr(),
        pages_stride=table_SP.stride(0),
        turns=turns.data_ptr(),
        states=states_Nd.data_ptr(),
        pieces_count=len(pieces),
        tokens_count=len(tokens),
    )
    library().llama_host_run(ctypes.byref(model), ctypes.byref(step), _threads())
    return states_Nd


def logits(model: CModel, states_Nd: Tensor) -> Tensor:
    """Give the logits (N, V) after states."""
    states_Nd = states_Nd.contiguous()
    logits_NV = torch.empty(len(states_Nd), model.vocab_size)
    library().llama_host_logits(
        ctypes.byref(model),
        _pointer(states_Nd.data_ptr()),
        len(states_Nd),
        _pointer(logits_NV.data_ptr()),
        _threads(),
    )
    return logits_NV


def summary(logits_NV: Tensor) -> tuple[Tensor, Tensor]:
    """Give the first of the largest of each row, and ln of the sum of e to each logit.

    >>> best, total = summary(torch.zeros(2, 4)) if available() else (torch.zeros(2), 0)
    >>> best.tolist()
    [0, 0]
    """
    logits_NV = logits_NV.contiguous()
    count, width = logits_NV.shape
    best_N, total_N = torch.empty(count, dtype=torch.int32), torch.empty(count)
    library().llama_host_summary(
        _pointer(logits_NV.data_ptr()),
        count,
        width,
        _pointer(best_N.data_ptr()),
        _pointer(total_N.data_ptr()),
        _threads(),
    )
    return best_N, total_N


def to_int8(weight_MK: Tensor) -> Matrix:
    """Keep a matrix in whole numbers up to 127, with what one of them is worth in each row.

    As the kernel reads it: sixteen rows beside each other, four numbers of each at a time, both
    filled up with zeros (cuda_ext/host/products.h).
    """
    rows, width = weight_MK.shape
    blocks, fours = -(-rows // BESIDE), -(-width // 4)
    whole = torch.zeros(blocks, fours, BESIDE, 4, dtype=torch.int8)
    scale_M = torch.ones(blocks * BESIDE)
    zero_M = torch.zeros(blocks * BESIDE, dtype=torch.int32)
    for at in range(0, rows, AT_ONCE):
        part = weight_MK[at : at + AT_ONCE].float()
        scale = part.abs().amax(1).clamp_min_(SMALLEST).div_(127)
        rounded = (part / scale[:, None]).round_()
        scale_M[at : at + len(part)] = scale
        zero_M[at : at + len(part)] = rounded.sum(1) * 128
        short = (0, 4 * fours - width, 0, -len(part) % BESIDE)
        filled = torch.nn.functional.pad(rounded, short).view(-1, BESIDE, fours, 4)
        whole[at // BESIDE :][: len(filled)] = filled.transpose(1, 2)
    return Matrix(whole, rows, width, scale_M, zero_M)


BESIDE = 16  # rows of an int8 matrix
AT_ONCE = 1024  # rows that are rounded at a time, to take little memory; ours
SMALLEST = 1e-30  # instead of nothing, to divide by


def let_go(tensor: Tensor) -> None:
    """Give the memory of a tensor that is not used again back to the system.

    One that is mapped from a file would keep its pages as long as any of that file is mapped.
    """
    size = mmap.PAGESIZE
    start = -(-tensor.data_ptr() // size) * size
    length = (tensor.data_ptr() + tensor.nbytes - start) // size * size
    if length > 0:
        ctypes.CDLL(None).madvise(_pointer(start), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def _threads() -> int:
    return torch.get_num_threads()

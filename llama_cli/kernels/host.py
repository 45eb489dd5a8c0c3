"""The processor's own kernel: a LLaMA's layers on rows of any lengths, in C (cuda_ext/host).

The library is plain C, one file for every Python and torch, with code for AVX-512, AVX2 and any
other processor in it; it reads weights where they lie, in fp32, bf16, fp16 or int8. Memory that
is pointed to is the caller's, who keeps it as long as a `CModel` is used. Arrays are NumPy's, which
has no bfloat16: its bits are in uint16. Legend: N tokens, d width, V vocabulary.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuda_ext.host import LIBRARY, build
from llama_cli.errors import LlamaError, NotReadyError

VERSION = 4  # of the C interface, cuda_ext/host/problem.h
PAGE = 16  # places of a page, cuda_ext/host/attention.h
ROWS = 16  # of an int8 matrix that lie beside each other, cuda_ext/host/products.h
BUILD = "python -m cuda_ext.host.build"
KINDS = {np.dtype(kind): at for at, kind in enumerate((np.float32, np.uint16, np.float16, np.int8))}
LOST = 2  # what C says where weights have gone from their file
VARIANTS = ("base", "avx2", "avx512")
MOST_THREADS = 1024  # ours, as of --threads: past some thousands the system gives no more

Array = NDArray[Any]
Floats = NDArray[np.float32]

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

    at: Array
    rows: int
    width: int
    scale_M: Floats | None = None
    zero_M: NDArray[np.int32] | None = None

    def as_c(self) -> CMatrix:
        """Point to it.

        Raises:
            ValueError: its rows do not follow each other in memory.
        """
        if not (self.at.flags.c_contiguous and self.at.flags.aligned):
            raise ValueError("a matrix whose rows follow each other in memory is wanted")
        extra = (0 if each is None else address(each) for each in (self.scale_M, self.zero_M))
        return CMatrix(address(self.at), *extra, self.rows, self.width, KINDS[self.at.dtype])


def address(array: Array) -> int:
    """Say where in memory it begins."""
    found: int = array.ctypes.data
    return found


def state() -> str:
    """Say in one line whether the library is built, and for what this processor takes of it."""
    if why := lacking():
        return f"{why}; try: {why.hint}"
    return f"built; {VARIANTS[library().llama_host_variant()]} here"


def available() -> bool:
    """Say whether the kernel can run here."""
    return lacking() is None


def lacking() -> NotReadyError | None:
    """Say why it cannot run here, and what would help; None if it can."""
    try:
        library()
    except NotReadyError as error:
        return error
    return None


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


def watch(owner: object, at: int, length: int, name: str) -> None:
    """Say by an error if a file is cut short that is mapped to this memory while `owner` is there.

    What is computed with such weights ends with it (`check`); otherwise the process would, by
    SIGBUS, without a word.
    """
    if available():
        number = library().llama_host_watch(_pointer(at), ctypes.c_size_t(length))
        if number >= 0:
            _watched[number] = name
            weakref.finalize(owner, _forget, number).atexit = False


def check() -> None:
    """Look whether all weights that were read so far were there.

    Raises:
        NotReadyError: their file was cut short.
    """
    number = library().llama_host_lost()
    if number >= 0:
        name = _watched[number]
        raise NotReadyError(
            f"{name}: cut short while it was read",
            hint="put a new file in its place with mv, not with cp",
        )


_watched: dict[int, str] = {}  # by number, a file


def _forget(number: int) -> None:
    library().llama_host_forget(number)
    del _watched[number]


def use_threads(count: int) -> None:
    """Run on so many from now on, in this process."""
    _asked.threads = count


def threads() -> int:
    """Say how many the kernel runs on: those set, or OMP_NUM_THREADS, or one a core."""
    return _asked.threads or _cores()


@dataclass(slots=True)
class _Asked:
    """What this process has asked for."""

    threads: int = 0


_asked = _Asked()


@cache
def _cores() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if asked.isascii() and asked.isdigit() and int(asked):
        return min(int(asked), MOST_THREADS)
    if not hasattr(os, "sched_getaffinity"):  # not Linux
        return os.cpu_count() or 1
    return len({_siblings(cpu) for cpu in os.sched_getaffinity(0)})


def _siblings(cpu: int) -> str:
    """Name the core of a processor's thread."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def run(
    model: CModel,
    tokens: Sequence[int],
    pieces: Sequence[tuple[int, int, int]],
    table_SP: NDArray[np.int64],
    turns: Floats,
) -> Floats:
    """Give the states (N, d) of tokens, and put their keys and values into pages.

    Args:
        model: with everything it points to.
        tokens: of all pieces, one after the other.
        pieces: of each the row of the table, the place of its first token, and their number.
        table_SP: addresses (int64) of the pages of each row, for all its places so far.
        turns: cosine and sine of each place and pair, (places, D / 2, 2), fp32.

    Raises:
        ValueError: tokens or pieces are not the model's, or not the table's.
        LlamaError: there is not enough memory.
    """
    _check(model, tokens, pieces, table_SP, turns)
    ids = (_int * len(tokens))(*tokens)
    own = (CPiece * len(pieces))(*(CPiece(*each) for each in pieces))
    states_Nd = np.empty((len(tokens), model.dim), np.float32)
    step = CStep(
        tokens=ctypes.addressof(ids),
        pieces=ctypes.addressof(own),
        pages=address(table_SP),
        pages_stride=table_SP.shape[1],
        turns=address(turns),
        states=address(states_Nd),
        pieces_count=len(pieces),
        tokens_count=len(tokens),
    )
    _done(library().llama_host_run(ctypes.byref(model), ctypes.byref(step), threads()))
    return states_Nd


def logits(model: CModel, states_Nd: Floats) -> Floats:
    """Give the logits (N, V) after states."""
    states_Nd = np.ascontiguousarray(states_Nd, np.float32)
    logits_NV = np.empty((len(states_Nd), model.vocab_size), np.float32)
    into = len(states_Nd), _pointer(address(logits_NV))
    states = _pointer(address(states_Nd))
    _done(library().llama_host_logits(ctypes.byref(model), states, *into, threads()))
    return logits_NV


def summary(logits_NV: Floats) -> tuple[NDArray[np.int32], Floats]:
    """Give the first of the largest of each row, and ln of the sum of e to each logit.

    >>> best, total = summary(np.zeros((2, 4))) if available() else (np.zeros(2, int), 0)
    >>> best.tolist()
    [0, 0]
    """
    logits_NV = np.ascontiguousarray(logits_NV, np.float32)
    count, width = logits_NV.shape
    best_N, total_N = np.empty(count, np.int32), np.empty(count, np.float32)
    into = _pointer(address(best_N)), _pointer(address(total_N))
    logits = _pointer(address(logits_NV))
    _done(library().llama_host_summary(logits, count, width, *into, threads()))
    return best_N, total_N


def narrow(matrix: Matrix) -> Matrix:
    """Put a matrix into int8, as the kernel reads it.

    Sixteen rows lie beside each other, four numbers of each at a time, both filled up with zeros.

    Raises:
        LlamaError: there is not enough memory.
    """
    blocks, fours = -(-matrix.rows // ROWS), -(-matrix.width // 4)
    whole = np.zeros((blocks, fours, ROWS, 4), np.int8)
    scale_M = np.ones(blocks * ROWS, np.float32)
    zero_M = np.zeros(blocks * ROWS, np.int32)
    into = (_pointer(address(each)) for each in (whole, scale_M, zero_M))
    _done(library().llama_host_narrow(ctypes.byref(matrix.as_c()), *into, threads()))
    return Matrix(whole, matrix.rows, matrix.width, scale_M, zero_M)


def _check(
    model: CModel,
    tokens: Sequence[int],
    pieces: Sequence[tuple[int, int, int]],
    table_SP: NDArray[np.int64],
    turns: Floats,
) -> None:
    """Let C read nothing that is not there."""
    rows, places = len(table_SP), min(table_SP.shape[1] * PAGE, len(turns))
    if tokens and not 0 <= min(tokens) <= max(tokens) < model.vocab_size:
        raise ValueError(f"a token is none of the model's {model.vocab_size:,}")
    if len(tokens) != sum(count for _, _, count in pieces):
        raise ValueError("pieces and tokens do not agree")
    for row, start, count in pieces:
        if not (0 <= row < rows and start >= 0 and count >= 0 and start + count <= places):
            raise ValueError(f"places {start} to {start + count} of row {row} have no pages")


def _done(short: int) -> None:
    if short == LOST:
        check()
    if short:
        raise LlamaError(
            "not enough memory for this many tokens at once",
            hint="a shorter prompt, a smaller --batch, or a machine with more memory",
        )

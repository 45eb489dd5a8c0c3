"""Faults planted in the kernels' source: each must be found, or the tests prove nothing.

Every fault is compiled for a CPU and put through what test_kernels_emulated.py asks: values
close to the definition, in both orders of warps and with copies that land early and late,
nothing read beyond the sequence, matrix instructions by the causal formula, no bank conflicts.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from cuda_ext import SOURCE
from llama_cli.errors import LlamaError
from llama_cli.kernels import extension
from llama_cli.kernels.documents import document_bounds
from llama_cli.kernels.library import Library, libraries
from tests.kernels import (
    GXX,
    compile_emulated,
    counts,
    definition,
    error,
    inputs,
    results,
    schedule,
)


class Fault(NamedTuple):
    """Text of a source file, the last of which is replaced."""

    file: str
    text: str
    instead: str = ""


KEYS_HERE = "wait_for_all();  // these keys are here"
QUERIES_HERE = "wait_for_all();  // these queries are here"
ONLY_WAIT, ONLY_MEET = "wait_copies();  //", "__syncthreads();  //"
ONLY_STRIPS = "if (strip > start || strip + STRIP <= first_key(p, batch, start)) continue;"
LATER_STRIPS = "if (strip + STRIP <= first_key(p, batch, start)) continue;"

FAULTS = {
    "keys that nobody waits for": Fault("stream.h", KEYS_HERE, ONLY_MEET),
    "queries that nobody waits for": Fault("stream.h", QUERIES_HERE, ONLY_MEET),
    "a buffer of keys overwritten while in use": Fault("stream.h", KEYS_HERE, ONLY_WAIT),
    "a buffer of queries overwritten while in use": Fault("stream.h", QUERIES_HERE, ONLY_WAIT),
    "own rows overwritten before they are held": Fault(
        "forward.h", "__syncthreads();  // where values come next"
    ),
    "score gradients read before they are written": Fault(
        "backward.h", "__syncthreads();  // this tile's dS is here"
    ),
    "a stale buffer": Fault("stream.h", "    turn ^= TILE;\n"),
    "stale score gradients": Fault("backward.h", "share_scores<T>(scores, nullptr, strip % TILE)"),
    "swapped fragments": Fault(
        "tile.h", "a[m], b.word[0], b.word[1]", "a[m], b.word[1], b.word[0]"
    ),
    "swapped rows of an operand": Fault("tile.h", "T::pack(x[0], x[1])", "T::pack(x[2], x[3])"),
    "a dropped scale of the scores": Fault("attention.cu", "p.scale * LOG2_E", "LOG2_E"),
    "a dropped scale of a gradient": Fault("backward.h", "grad_q[0], p.scale", "grad_q[0], 1"),
    "a key too many": Fault("mask.h", "query + 1);", "query + 2);"),
    "a key too few": Fault("mask.h", "strip, key, end_query", "strip, key + 1, end_query"),
    "another document's keys": Fault("mask.h", "return p.first ?", "return 0 ?"),
    "another document's queries": Fault("mask.h", "return p.end ?", "return 0 ?"),
    "another group's keys": Fault(
        "stream.h", "blockIdx.x / (p.heads / p.key_heads)", "blockIdx.x % p.key_heads"
    ),
    "a head of the group forgotten": Fault(
        "stream.h", "head < first_head + group;", "head <= first_head;"
    ),
    "a lost tail": Fault("stream.h", "p.length) - 1;", "p.length) - 2;"),
    "a row beyond the end": Fault("stream.h", "more < length);", "more <= length);"),
    "a wrong log-sum-exp": Fault("forward.h", "+ logf(sum[half])", "+ sum[half]"),
    "sums that do not follow the reference": Fault("softmax.h", "sum[m][half] *= shrink;"),
    "no reference for a row that saw nothing": Fault("softmax.h", "reference == HIDDEN ? 0 :"),
    "lanes that part": Fault("softmax.h", "= row_max(now);", "= lane() < 9 ? row_max(now) : now;"),
    "a hidden strip computed": Fault("stream.h", ONLY_STRIPS, LATER_STRIPS),
    "rows that meet in a bank": Fault("tile.h", "(chunk ^ (row & 7))", "chunk"),
}


def plant(fault: Fault, folder: Path) -> Path:
    """Copy the sources to `folder`, put the fault in, and return the one to compile."""
    for source in SOURCE.parent.glob("*.[hc]*"):
        shutil.copy(source, folder)
    file = folder / fault.file
    before, found, after = file.read_text().rpartition(fault.text)
    assert found, f"{fault.text!r} is not in {fault.file}"
    file.write_text(before + fault.instead + after)
    return folder / SOURCE.name


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future]]:
    """Compile every fault, two at a time."""
    if GXX is None:
        pytest.skip("no g++ to compile the kernels for a CPU with")

    def build(fault: Fault) -> Library:
        folder = tmp_path_factory.mktemp("fault")
        return compile_emulated(folder, plant(fault, folder), "-O0", "-w")

    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(build, fault) for name, fault in FAULTS.items()}
        pool.shutdown(cancel_futures=True)


LENGTH = 129  # one more than two tiles
BOUNDS = document_bounds(torch.tensor([0, 3, 101, 129, 258]), 2, LENGTH)


def examine(library: Library) -> None:
    """Assert at one size what the tests of the emulated kernels assert at many."""
    for deterministic, late, last in product((True, False), (True, False), (False, True)):
        schedule(library, late=late, last_warp_first=last)
        compare(deterministic)
    assert counts(library)[2] == 0
    schedule(library)
    extension.forward(*inputs(128, 64, torch.bfloat16)[:3], None, True)
    assert counts(library)[0] == 2 * 2 * 10 * 2 * 32  # heads, pairs of strips, products


def compare(deterministic: bool) -> None:
    """Compare with the definition, where beyond the sequence all is NaN."""
    given = [
        torch.cat([x, torch.full_like(x[:, :, :1], math.nan)], 2)[:, :, :-1]
        for x in inputs(LENGTH, 64, torch.bfloat16, heads=4, key_heads=2)
    ]
    attend = partial(extension.causal_attention, bounds=BOUNDS, deterministic=deterministic)
    true = results(partial(definition, bounds=BOUNDS), *(x.double() for x in given))
    for name, x in results(attend, *given).items():
        assert error(x, true[name]) <= 2**-7 * true[name].norm(), name


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_kernels_is_found(fault: str, faulty, monkeypatch) -> None:
    library = faulty[fault].result()
    monkeypatch.setitem(libraries, "cpu", library)
    with pytest.raises((AssertionError, LlamaError)):
        examine(library)


def test_the_kernels_without_a_fault_pass_the_same(emulated) -> None:
    examine(emulated)

"""The processor's kernel at its limits: numbers that overflow, too little memory, odd callers."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from ctypes import byref
from pathlib import Path

import numpy as np
import pytest
import torch

from cuda_ext.host import build
from llama_cli.errors import LlamaError
from llama_cli.inference.backend import Piece, take_over
from llama_cli.kernels import host
from tests.unit.test_host import IDS, ODD, made, read, threads, variant

__all__ = ["threads", "variant"]  # fixtures


def in_a_child(work: Callable[[], bool]) -> bool:
    """Fork, and say whether what the child finds is true, within half a minute."""
    child = os.fork()
    if not child:
        signal.alarm(30)
        found = False
        try:
            found = work()
        finally:
            os._exit(0 if found else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def keep_memory(spare: int) -> None:
    """Let this process ask for no more than `spare` bytes from now on."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + spare
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def test_a_gate_that_is_far_from_zero_is_shut_or_open(variant: str) -> None:
    """silu(-1000) is 0 and silu(1000) is 1000, though e^1000 is no number of fp32."""
    model = made(ODD)
    with torch.no_grad():
        for layer in model.layers:
            layer.feed_forward.w1.weight.mul_(3000)
            layer.feed_forward.w2.weight.div_(3000)
        wanted = model(torch.tensor([IDS[:40]]))[0]
    assert torch.allclose(read(take_over(model), [39, 1]), wanted, atol=1e-4)


def test_a_sum_of_very_large_logits_is_the_largest(variant: str) -> None:
    logits = torch.full((2, 77), -3e38)
    logits[0, 5], logits[1, 76] = 3e38, -87.5
    best, total = host.summary(logits)
    assert best.tolist() == [5, 76]
    assert total.tolist() == [logits[0, 5].item(), -87.5]


def test_a_row_without_numbers_has_a_first_piece_and_no_sum(variant: str) -> None:
    logits = torch.zeros(3, 301)
    logits[0], logits[1, 200] = torch.nan, torch.nan
    best, total = host.summary(logits)
    assert best.tolist() == [0, 0, 0]
    assert np.isnan(total).tolist() == [True, True, False]


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_stays_in_its_row(variant: str, quantize: bool, value: float) -> None:
    model = made(ODD)
    with torch.no_grad():
        model.tok_embeddings.weight[7, 11] = value
    network = take_over(model, quantize=quantize)
    cache = network.cache()
    cache.grow(2, 20)
    ids = [*IDS[:9], 7, *IDS[:10]]
    both = network.logits(network.states(ids, [Piece(0, 0, 10), Piece(1, 0, 10)], cache))
    assert np.isnan(both[9]).all()
    assert np.array_equal(both[10:], read(network, [10]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("quantize", [False, True])
def test_a_weight_that_is_no_number_is_seen_in_every_logit(variant: str, quantize: bool) -> None:
    model = made(ODD)
    with torch.no_grad():
        model.layers[0].attention.wk.weight[0, 0] = torch.nan
    assert read(take_over(model, quantize=quantize), [10]).isnan().all()


def test_threads_are_those_asked_for_or_one_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_asked", host._Asked())
    cores = host._cores.__wrapped__
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")  # of the first level
    assert cores() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert 1 <= cores() <= (os.cpu_count() or 1)
    monkeypatch.setattr(host, "_siblings", lambda cpu: "0-7")
    assert cores() == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == os.cpu_count()
    host.use_threads(5)
    assert host.threads() == 5


def test_a_piece_without_tokens_is_nothing(variant: str) -> None:
    network = take_over(made(ODD))
    cache = network.cache()
    cache.grow(3, 20)
    pieces = [Piece(0, 0, 0), Piece(2, 0, 1), Piece(1, 0, 0)]
    found = network.logits(network.states(IDS[:1], pieces, cache))
    assert np.array_equal(found, read(network, [1]))
    assert network.states([], [], cache).shape == (0, ODD.dim)
    assert network.logits(np.empty((0, ODD.dim))).shape == (0, ODD.vocab_size)


@pytest.mark.parametrize(
    ("tokens", "piece", "why"),
    [
        ([1, 301], Piece(0, 0, 2), "none of the model's 301"),
        ([-1, 3], Piece(0, 0, 2), "none of the model's 301"),
        ([1, 2, 3], Piece(0, 0, 2), "do not agree"),
    ],
)
def test_what_would_be_read_beyond_its_end_is_refused(
    tokens: list[int], piece: Piece, why: str
) -> None:
    network = take_over(made(ODD))
    cache = network.cache()
    cache.grow(1, 16)
    with pytest.raises(ValueError, match=why):
        network.states(tokens, [piece], cache)


def test_places_without_pages_are_refused() -> None:
    network = take_over(made(ODD))
    cache = network.cache()
    cache.grow(1, 16)
    for row, start in ((1, 0), (0, 15), (-1, 0)):
        with pytest.raises(ValueError, match="have no pages"):
            host.run(network._model, [1, 2], [(row, start, 2)], cache.table_SP, np.zeros((99, 3)))


def test_too_little_memory_for_a_step_is_an_error_and_not_the_end() -> None:
    network = take_over(made(ODD))

    def short() -> bool:
        keep_memory(1 << 28)
        step = host.CStep(tokens_count=1 << 30)  # 144 GiB of activations
        with pytest.raises(LlamaError, match="not enough memory"):
            host._done(host.library().llama_host_run(byref(network._model), byref(step), 1))
        return True

    assert in_a_child(short)


@pytest.mark.filterwarnings("ignore:This process")
def test_threads_that_the_system_does_not_give_are_done_without(threads: None) -> None:
    network, pieces = take_over(made(ODD)), [Piece(0, 0, 30)]
    cache = network.cache()
    cache.grow(1, 30)
    wanted = network.states(IDS[:30], pieces, cache)

    def short() -> bool:
        host.use_threads(16)
        keep_memory(20 << 20)  # a thread's stack has 8 MiB
        return np.array_equal(network.states(IDS[:30], pieces, cache), wanted)

    assert in_a_child(short)


@pytest.mark.filterwarnings("ignore:This process")
def test_a_process_may_fork_while_another_thread_computes(threads: None) -> None:
    network = take_over(made(ODD))
    host.use_threads(2)
    wanted, over = read(network, [90]), threading.Event()

    def compute() -> None:
        while not over.is_set():
            assert np.array_equal(read(network, [90]), wanted)

    other = threading.Thread(target=compute)
    other.start()
    same = [in_a_child(lambda: np.array_equal(read(network, [90]), wanted)) for _ in range(8)]
    over.set()
    other.join()
    assert all(same)


def test_threads_that_call_at_once_get_what_each_would_alone(threads: None) -> None:
    network = take_over(made(ODD))
    host.use_threads(3)
    wanted, found = read(network, [60]), []
    callers = [
        threading.Thread(target=lambda: found.extend(read(network, [20, 40]) for _ in range(10)))
        for _ in range(3)
    ]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert len(found) == 30
    assert all(np.array_equal(each, wanted) for each in found)


def test_a_variant_shares_no_code_of_ours_with_another(tmp_path: Path) -> None:
    """The linker keeps a shared name once: AVX2 would run what was compiled for AVX-512."""
    if not shutil.which("nm"):
        pytest.skip("no nm")
    made = tmp_path / "variant.o"
    source = build.HERE / "variant.cpp"
    flags = ("-std=c++17", "-O0", "-w", "-DVARIANT=base", "-c")
    subprocess.run([*build.find_compiler(), *flags, source, "-o", made], check=True)
    said = subprocess.run(["nm", made], check=True, capture_output=True, text=True).stdout
    shared = re.findall(r"[WVu] (\w+)$", said, re.MULTILINE)
    assert shared
    ours = [x for x in shared if not re.match(r"_ZN?K?(St|S[aso]|9__gnu_cxx)|DW\.|_Zn|_Zd", x)]
    assert ours == []
    assert next(iter(build.VARIANTS.items())) == ("base", ())  # whose copies of std's are kept

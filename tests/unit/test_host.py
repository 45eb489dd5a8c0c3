"""The processor's kernel computes what the model does, in every variant, each row for itself."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cuda_ext.host import build
from llama_cli.commands._version import details
from llama_cli.errors import NotReadyError
from llama_cli.inference.backend import Piece, take_over
from llama_cli.inference.host import HostNetwork
from llama_cli.inference.network import Network
from llama_cli.inference.pages import Pages
from llama_cli.kernels import host
from llama_cli.kernels.host import Matrix
from llama_cli.model.config import ModelConfig
from llama_cli.model.dtypes import as_array
from llama_cli.model.rotary import rotary_table
from llama_cli.model.transformer import Transformer, init_weights
from tests.nvcc import copy_checkout
from tests.shell import sh
from tests.tiny import CONFIG

ODD = ModelConfig(dim=36, layers=2, heads=6, hidden=52, vocab_size=301, context=128, kv_heads=3)
IDS = torch.randint(3, 300, (90,), generator=torch.Generator().manual_seed(1)).tolist()
RAGGED = ModelConfig(dim=30, layers=2, heads=3, hidden=51, vocab_size=303, context=128)
SHAPES = [CONFIG, ODD, replace(CONFIG, kv_heads=1, tied=True), RAGGED]


@pytest.fixture(params=range(3), ids=host.VARIANTS)
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    best = host.library().llama_host_variant()
    if not host.library().llama_host_choose(request.param):
        pytest.skip(f"this processor has no {host.VARIANTS[request.param]}")
    yield host.VARIANTS[request.param]
    host.library().llama_host_choose(best)


@pytest.fixture
def threads() -> Iterator[None]:
    yield
    host.use_threads(1)


def made(config: ModelConfig, dtype: torch.dtype = torch.float32) -> Transformer:
    host.use_threads(1)
    model = Transformer(config).eval()
    init_weights(model, 0)
    return model.to(dtype)


def read(network: HostNetwork, steps: list[int]) -> Tensor:
    """Read the first IDS in so many steps, each of so many tokens."""
    cache, at, found = network.cache(), 0, []
    cache.grow(2, sum(steps))
    for count in steps:
        found.append(network.states(IDS[at : at + count], [Piece(1, at, count)], cache))
        at += count
    return torch.from_numpy(network.logits(np.concatenate(found)))


@pytest.mark.parametrize("config", SHAPES, ids=["tiny", "odd", "grouped", "ragged"])
def test_logits_are_those_of_the_model(variant: str, config: ModelConfig) -> None:
    model = made(config)
    with torch.inference_mode():
        wanted = model(torch.tensor([IDS[:60]]))[0]
    network = take_over(model)
    for steps in ([60], [37, 23], [57, 1, 1, 1]):
        assert torch.allclose(read(network, steps), wanted, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_are_computed_with_in_fp32(variant: str, dtype: torch.dtype) -> None:
    model = made(ODD, dtype)
    with torch.inference_mode():
        wanted = made(ODD).float()
        for mine, half in zip(wanted.parameters(), model.parameters(), strict=True):
            mine.copy_(half)
        logits = wanted(torch.tensor([IDS[:40]]))[0]
    assert torch.allclose(read(take_over(model), [39, 1]), logits, atol=2e-5)


def test_eight_bits_are_near(variant: str) -> None:
    for config in SHAPES:
        model = made(config)
        with torch.inference_mode():
            wanted = model(torch.tensor([IDS[:40]]))[0]
        found = read(take_over(model, quantize=True), [39, 1])
        assert (found - wanted).abs().max() < 0.3 * wanted.std()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(77, 36), (33, 51), (16, 4), (1, 1), (40, 130)])
def test_eight_bits_are_the_nearest(variant: str, shape: tuple[int, int], dtype: type) -> None:
    weight = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    weight[0] = 0
    weight[-1, :1] = 127 / 2**3  # with it halves, which go to the even number
    weight[-1, 1:] = np.arange(shape[1] - 1) % 200 / 2**4 - 6
    wide = weight.astype(np.float32)
    worth = np.maximum(np.abs(wide).max(1), np.float32(1e-30)) / np.float32(127)
    right = np.rint(wide / worth[:, None]).astype(np.int8)
    made = host.narrow(Matrix(weight, *shape))
    rows = made.at.swapaxes(1, 2).reshape(-1, 4 * made.at.shape[1])
    assert np.array_equal(rows[: shape[0], : shape[1]], right)
    assert not rows[shape[0] :].any()
    assert not rows[:, shape[1] :].any()
    assert np.array_equal(made.scale_M[: shape[0]], worth)
    assert made.zero_M[: shape[0]].tolist() == (128 * right.sum(1, dtype=np.int32)).tolist()


def test_products_in_eight_bits_are_exact_but_for_rounding_both_sides(variant: str) -> None:
    """Ones and whole weights up to 127 lose nothing, so the sums must be what they are."""
    weight = torch.randint(-127, 128, (77, 36), generator=torch.Generator().manual_seed(2))
    weight[:, 0] = 127
    model = made(replace(ODD, vocab_size=77))
    with torch.no_grad():
        model.output.weight.copy_(weight.float())
    network = take_over(model, quantize=True)
    signs = torch.randint(0, 2, (5, 36), generator=torch.Generator().manual_seed(3)) * 2.0 - 1
    assert np.allclose(network.logits(signs), signs @ weight.float().t(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("quantize", [False, True])
def test_a_row_is_the_same_bits_in_any_company(variant: str, quantize: bool, threads: None) -> None:
    network = take_over(made(ODD), quantize=quantize)
    alone = read(network, [60])
    for steps in ([1] * 60, [16, 1, 43], [5, 55]):
        assert np.array_equal(read(network, steps), alone)
    for count in (2, 3):
        host.use_threads(count)
        cache = network.cache()
        cache.grow(9, 90)
        pieces = [Piece(3, 0, 60), *(Piece(slot, 0, 5 + slot) for slot in (0, 5, 8, 1))]
        tokens = [token for each in pieces for token in IDS[: each.count]]
        states = network.states(tokens, pieces, cache)
        assert np.array_equal(network.logits(states)[:60], alone)
        assert np.array_equal(network.logits(states)[60:65], alone[:5])


SHARED = [48, 48, 48, 50, 50, 33, 48, 48, 2, 48, 48]  # places of the first row that others have


def test_rows_that_share_pages_read_them_together_with_the_same_bits(variant: str) -> None:
    network = take_over(made(ODD))
    tails = [IDS[60 + n : 61 + n + n % 3] for n in range(11)]
    cache = network.cache()
    cache.grow(12, 90)
    network.states(IDS[:50], [Piece(0, 0, 50)], cache)
    pieces = []
    for slot, (tail, count) in enumerate(zip(tails, SHARED, strict=True), 1):
        cache.copy(0, slot, count)
        pieces.append(Piece(slot, count, len(tail)))
    found = network.states([token for tail in tails for token in tail], pieces, cache)
    at = 0
    for piece, tail in zip(pieces, tails, strict=True):
        alone = network.cache()
        alone.grow(1, 90)
        ids = [*IDS[: piece.start], *tail]
        wanted = network.states(ids, [Piece(0, 0, len(ids))], alone)[piece.start :]
        assert np.array_equal(found[at : at + len(tail)], wanted)
        at += len(tail)


def test_the_summary_of_logits(variant: str) -> None:
    logits = torch.randn(7, 301, generator=torch.Generator().manual_seed(4)) * 20
    logits[2, [5, 9]] = 90.0  # the first of two
    logits[3] = -1e30
    best, total = host.summary(logits)
    assert best.tolist() == [*logits[:2].argmax(1).tolist(), 5, 0, *logits[4:].argmax(1).tolist()]
    assert np.allclose(total, logits.logsumexp(1), rtol=1e-6)


@pytest.mark.parametrize("head_dim", [48, 80, 128])
def test_places_are_turned_as_in_training(head_dim: int) -> None:
    config = ModelConfig(dim=head_dim, layers=1, heads=1, hidden=16, vocab_size=16)
    weights = dict(made(config).named_parameters())
    turns = HostNetwork(config, lambda name: as_array(weights[name]))._turned(2048)
    table = torch.stack(rotary_table(0, 2048, head_dim, 10_000.0, torch.device("cpu")), -1)
    far = np.abs(turns - table.numpy()).max((0, 2))  # of each pair, at any place
    assert (far < 1e-6).mean() > 0.9  # powers differ in the last bit, by the processor
    assert far.max() < 3e-4


def pages(slots: int = 3) -> Pages:
    held = Pages(ODD)
    held.grow(slots, 90)
    return held


def test_rows_share_whole_pages_and_copy_the_one_in_which_they_part() -> None:
    held = pages()
    held.fill(0, 0, 40)
    held.copy(0, 1, 35)
    assert held.table_SP[1, :2].tolist() == held.table_SP[0, :2].tolist()
    assert held.table_SP[1, 2] != held.table_SP[0, 2]


def test_a_row_that_goes_on_another_way_leaves_what_others_share() -> None:
    network = take_over(made(ODD))
    held = network.cache()
    held.grow(2, 90)
    network.states(IDS[:40], [Piece(0, 0, 40)], held)
    held.copy(0, 1, 32)
    network.states(IDS[50:80], [Piece(0, 3, 30)], held)  # over what slot 1 begins with
    found = network.states(IDS[32:40], [Piece(1, 32, 8)], held)
    alone = network.cache()
    alone.grow(1, 90)
    assert np.array_equal(found, network.states(IDS[:40], [Piece(0, 0, 40)], alone)[32:])


def test_pages_come_back_when_rows_go() -> None:
    held = pages()
    held.fill(0, 0, 90)
    taken = held.bytes
    for _ in range(50):
        held.copy(0, 1, 50)
        held.fill(1, 50, 90)
        held.drop(1)
        held.drop(0)
        held.fill(0, 0, 90)
    assert held.bytes == taken


def test_a_forked_process_has_threads_of_its_own(threads: None) -> None:
    network = take_over(made(ODD))
    host.use_threads(2)
    wanted = read(network, [30])
    child = os.fork()
    if not child:
        signal.alarm(30)
        same = np.array_equal(read(network, [30]), wanted)
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_cpu_takes_the_kernel_where_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(take_over(made(ODD)), HostNetwork)
    monkeypatch.setattr(host, "available", lambda: False)
    assert isinstance(take_over(made(ODD)), Network)


def test_a_library_that_is_not_there_or_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="not built"):
        host.library(tmp_path / "none.so")
    (tmp_path / "torn.so").write_bytes(b"\x7fELF")
    with pytest.raises(NotReadyError, match="cannot be opened"):
        host.library(tmp_path / "torn.so")


def test_a_stale_library_is_said_by_version_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "fresh", lambda library: False)
    monkeypatch.setattr(host, "library", host.library.__wrapped__)  # not what was opened before
    assert [*details()][-1] == (
        "processor kernel built from other sources than are here; "
        "try: python -m cuda_ext.host.build"
    )
    assert isinstance(take_over(made(ODD)), Network)


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"CXX": "no-such-compiler"}, "no no-such-compiler"),
        ({"CXX": "false --really"}, "false failed: status 1"),
        ({"LLAMA_BUILD_HOST": "0"}, "LLAMA_BUILD_HOST=0"),
    ],
)
def test_an_install_without_a_compiler_says_so_in_one_line_and_goes_on(
    tmp_path: Path, environment: dict[str, str], why: str
) -> None:
    environment = {"LLAMA_BUILD_CUDA": "0", "PYTHONPATH": "", **environment}
    built = f"{sys.executable} setup.py -q build_ext --inplace"
    done = sh(built, copy_checkout(tmp_path), env=environment)
    said = [line for line in done.stdout.splitlines() if line.startswith("cuda_ext.host: ")]
    assert done.returncode == 0
    assert said == [f"cuda_ext.host: not built: {why}; models run on a CPU by PyTorch's own"]
    assert not (tmp_path / "cuda_ext" / "host" / build.LIBRARY.name).exists()


def test_a_compiler_may_be_several_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "env -u LANG c++ -m64")
    found, *words = build.find_compiler()
    assert Path(found).name == "env"
    assert words == ["-u", "LANG", "c++", "-m64"]


def test_an_install_builds_it_once_and_goes_on_without_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / build.LIBRARY.name
    assert build.obtain(target) == f"kept {target.name}, built from these sources"
    assert build.fresh(target)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(build, "fresh", lambda library=target: False)
    assert build.why_not() == "no no-such-compiler"
    with pytest.raises(RuntimeError, match="no no-such-compiler"):
        build.obtain(target)
    monkeypatch.setenv("LLAMA_BUILD_HOST", "0")
    assert build.why_not() == "LLAMA_BUILD_HOST=0"

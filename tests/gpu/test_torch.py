"""The operator inside PyTorch on a real GPU: streams, graphs, compilation, refusals."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from llama_cli.kernels import attention, extension, proof
from llama_cli.kernels.documents import document_bounds
from llama_cli.kernels.library import DTYPES, HEAD_SIZES
from tests.gpu.problems import fresh, longest, needs_gpu, offsets_of
from tests.kernels import results, same_bits

pytestmark = pytest.mark.gpu

FORMS = pytest.mark.parametrize("deterministic", [True, False], ids=["deterministic", "atomics"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", HEAD_SIZES)
def test_auto_tries_the_kernel_and_takes_it(device, size, dtype, monkeypatch) -> None:
    needs_gpu(device)
    monkeypatch.delenv("LLAMA_TRAIN_ATTENTION", raising=False)
    assert proof.fault(torch.device("cuda", torch.cuda.current_device()), dtype) is None
    assert attention.backend(torch.device("cuda"), dtype, size) == "cuda"


def packed(device: str, length: int) -> Tensor:
    offsets = torch.tensor(offsets_of("at random", 2, length), device=device)
    return document_bounds(offsets, 2, length)


def test_work_on_another_stream_waits_for_what_fills_its_input(device) -> None:
    needs_gpu(device)
    q, k, v, grad_out = fresh(device, 2_048, 128)
    expected = results(extension.causal_attention, q, k, v, grad_out)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(10_000_000)  # cycles, some milliseconds
        late = torch.zeros_like(q).copy_(q)
        found = results(extension.causal_attention, late, k, v, grad_out)
    torch.cuda.synchronize()
    assert same_bits(found, expected)


@FORMS
def test_nothing_waits_for_the_gpu(device, deterministic) -> None:
    needs_gpu(device)
    given = fresh(device, 1_000, 64)
    offsets = torch.tensor(offsets_of("at random", 2, 1_000), device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        bounds = document_bounds(offsets, 2, 1_000)
        results(
            partial(extension.causal_attention, bounds=bounds, deterministic=deterministic), *given
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_captured_graph_gives_the_same_bits_on_new_inputs(device) -> None:
    needs_gpu(device)
    given, others = fresh(device, 1_000, 128), fresh(device, 1_000, 128)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        results(extension.causal_attention, *given)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = results(extension.causal_attention, *given)
    for x, other in zip(given, others, strict=True):
        x.copy_(other)
    graph.replay()
    assert same_bits(found, results(extension.causal_attention, *others))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # inductor's own
@pytest.mark.parametrize("bounded", [False, True], ids=["", "packed"])
def test_a_compiled_model_calls_it_without_a_break(device, bounded) -> None:
    length = longest(device, 1_000)
    given = fresh(device, length, 128, key_heads=2)
    bounds = packed(device, length) if bounded else None

    def model(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # what is beside it rounds nothing
        return 2 * extension.causal_attention(q.relu(), k, -v, bounds=bounds)

    compiled = torch.compile(model, fullgraph=True)
    assert same_bits(results(compiled, *given), results(model, *given))


@FORMS
@pytest.mark.parametrize("bounded", [False, True], ids=["", "packed"])
def test_the_operators_keep_what_torch_asks_of_one(device, bounded, deterministic) -> None:
    q, k, v, grad_out = fresh(device, longest(device, 300), 64, key_heads=2)
    bounds = packed(device, longest(device, 300)) if bounded else None
    leaves = tuple(x.requires_grad_() for x in (q, k, v))
    forward = torch.ops.llama.causal_attention.default
    # sums in any order are other bits each time, so gradients of atomics cannot be compared
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    tests += ("test_aot_dispatch_dynamic",) if deterministic else ()
    torch.library.opcheck(forward, (*leaves, bounds, deterministic), test_utils=tests)
    with torch.no_grad():
        out, lse = forward(*leaves, bounds, deterministic)
    backward = torch.ops.llama.causal_attention_backward.default
    arguments = (*(x.detach() for x in leaves), out, lse, grad_out, bounds, deterministic)
    torch.library.opcheck(backward, arguments, test_utils=("test_schema", "test_faketensor"))


def test_tensors_that_lie_elsewhere_are_one_sentence(device) -> None:
    needs_gpu(device)
    q, k, v, _ = fresh(device, 20, 64)
    with pytest.raises(ValueError, match=r"on one device, not .* on cuda:\d and .* on cpu$"):
        extension.causal_attention(q, k.cpu(), v)
    with pytest.raises(ValueError, match=r"bounds must be torch.int32 on cuda:\d, not .* on cpu$"):
        extension.causal_attention(q, k, v, bounds=packed("cpu", 20))

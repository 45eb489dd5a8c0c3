"""What the attention kernel cannot take, and a library, driver or GPU that does not do.

One clear sentence each, and no crash: C checks nothing.
"""

from __future__ import annotations

import ctypes.util
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cuda_ext import build
from llama_cli.errors import LlamaError, NotReadyError
from llama_cli.kernels import attention, check, extension, library
from llama_cli.kernels.attention import choose
from llama_cli.kernels.documents import document_bounds

Q = torch.zeros(1, 4, 3, 64, dtype=torch.bfloat16)
LONG = Q[:, :, :1].expand(1, 4, 4_194_241, 64)


SENTENCES = [
    (Q.float(), Q.float(), "q, k, v must be torch.bfloat16 or torch.float16, not torch.float32"),
    (Q, Q.half(), "q, k, v must be of one dtype and on one device, not torch.bfloat16 on cpu and"),
    (Q, Q[:, :, :2], "q, k, v must share one shape (batch, heads, length, d), but for the heads"),
    (Q, Q[..., :32], "q, k, v must share one shape"),
    (Q, Q.expand(2, 4, 3, 64), "q, k, v must share one shape"),
    (Q[0], Q[0], "q, k, v must share one shape"),
    (Q, Q[:, :3], "the heads of q must be a multiple of those of k and v, not 4 and 3"),
    (Q[:, :2], Q, "the heads of q must be a multiple of those of k and v, not 2 and 4"),
    (Q, Q[:, :0], "batch, heads and length must be at least 1"),
    (Q[:, :, :0], Q[:, :, :0], "batch, heads and length must be at least 1, not (1, 4, 0)"),
    (Q[..., :48], Q[..., :48], "d must be 64 or 128, not 48"),
    (Q.expand(65_536, 4, 3, 64), Q.expand(65_536, 4, 3, 64), "at most 65535, not (65536, 4)"),
    (LONG, LONG, "length must be at most 4194240, not 4194241"),
    (Q.mT.contiguous().mT, Q, "q must start at a multiple of 16 bytes, its last axis contiguous"),
    (Q, Q.new_zeros(1, 4, 3, 65)[..., 1:], "k must start at a multiple of 16 bytes"),
]


@pytest.mark.parametrize(("q", "k", "sentence"), SENTENCES)
def test_what_the_kernel_cannot_take_is_one_sentence(emulated, q, k, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^.*{re.escape(sentence)}.*$"):
        extension.causal_attention(q, k, k)


def test_a_v_unlike_k_is_one_sentence(emulated) -> None:
    with pytest.raises(ValueError, match="share one shape"):
        extension.causal_attention(Q, Q, Q[:, :2])
    with pytest.raises(ValueError, match="v must start at"):
        extension.causal_attention(Q, Q, Q.mT.contiguous().mT)


def test_tensors_on_two_devices_are_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"on one device, not .*16 on cpu and .*16 on meta"):
        check.check(Q, Q.to("meta"), Q)


def test_a_cpu_is_refused_outside_these_tests() -> None:
    with pytest.raises(ValueError, match="q, k and v must be on an NVIDIA GPU, not on a cpu"):
        extension.causal_attention(Q, Q, Q)


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        (torch.zeros(1, 3).int(), r"bounds must be (2, batch, length), (2, 1, 3), not (1, 3)"),
        (torch.zeros(2, 1, 4).int(), "not (2, 1, 4)"),
        (torch.zeros(2, 1, 3).long(), "bounds must be torch.int32 on cpu, not torch.int64 on cpu"),
        (torch.zeros(2, 1, 3, device="meta").int(), "on cpu, not torch.int32 on meta"),
        (torch.zeros(2, 1, 6).int()[..., ::2], "bounds must be contiguous, not of strides (6, 6"),
    ],
)
def test_bounds_that_do_not_fit_are_one_sentence(bounds: Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^.*{re.escape(sentence)}.*$"):
        check.check(Q, Q, Q, bounds)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"out": Q[:, :2]}, r"out must be like q, \(1, 4, 3, 64\) of .*, not \(1, 2, 3, 64\)"),
        ({"grad_out": Q.float()}, "grad_out must be like q, .*16 on cpu, not .*float32 on cpu"),
        ({"lse": Q[..., 0]}, r"lse must be \(1, 4, 3\) of torch.float32 on cpu, not .*bfloat16"),
    ],
)
def test_a_backward_of_something_else_is_one_sentence(emulated, changed, sentence: str) -> None:
    given = {"out": Q, "lse": Q[..., 0].float(), "grad_out": Q} | changed
    with pytest.raises(ValueError, match=sentence):
        extension.backward(Q, Q, Q, *given.values(), None, True)


@pytest.mark.parametrize(
    ("offsets", "sentence"),
    [
        (torch.tensor([1, 6]), "must begin with 0 and end with batch times length, 6, not 1 and 6"),
        (torch.tensor([0, 5]), "must begin with 0 and end with batch times length, 6, not 0 and 5"),
        (torch.tensor([0, 4, 3, 6]), "offsets must ascend, not go from 4 to 3"),
        (torch.tensor([0.0, 6.0]), "at least 2 int32 or int64, not (2,) of torch.float32"),
        (torch.tensor([6]), "at least 2 int32 or int64, not (1,)"),
        (torch.tensor([[0, 6]]), "at least 2 int32 or int64, not (1, 2)"),
    ],
)
def test_offsets_that_are_none_are_one_sentence(offsets: Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^.*{re.escape(sentence)}.*$"):
        document_bounds(offsets, 2, 3)


def test_an_empty_batch_has_no_bounds() -> None:
    with pytest.raises(ValueError, match="batch and length must be at least 1, not 0 and 3"):
        document_bounds(torch.tensor([0, 0]), 0, 3)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_a_document_is_cut_at_the_end_of_its_row(dtype: torch.dtype) -> None:
    first, end = document_bounds(torch.tensor([0, 2, 7, 8], dtype=dtype), 2, 4)
    assert first.tolist() == [[0, 0, 2, 2], [0, 0, 0, 3]]
    assert end.tolist() == [[2, 2, 4, 4], [3, 3, 3, 4]]


def test_an_empty_document_changes_nothing() -> None:
    some, same = (torch.tensor(x) for x in ([0, 2, 2, 6], [0, 2, 6]))
    assert torch.equal(document_bounds(some, 2, 3), document_bounds(same, 2, 3))


def test_bounds_are_what_the_kernel_takes() -> None:
    bounds = document_bounds(torch.tensor([0, 3]), 1, 3)
    check.check_bounds(bounds, Q)
    assert bounds.is_contiguous()


def test_wrong_offsets_that_nobody_looks_at_read_nothing_they_must_not(monkeypatch) -> None:
    monkeypatch.setattr("llama_cli.kernels.documents._check_values", lambda *_: None)  # as on a GPU
    for offsets in ([-9, 4], [2, 3], [0, 99], [5, 1], [7, 8, 2, 3]):
        first, end = document_bounds(torch.tensor(offsets), 2, 3)
        position = torch.arange(3)
        assert (first >= 0).all()
        assert (first <= position).all()
        assert (position < end).all()
        assert (end <= 3).all()


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that there is an A100, and a library (an empty file yet) at the path returned."""
    path = tmp_path / "libllama_attention.so"
    path.touch()
    monkeypatch.setattr(library, "LIBRARY", path)
    monkeypatch.setattr(library, "libraries", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    return path


def test_a_library_that_was_never_built_is_said_with_its_cure(gpu: Path) -> None:
    gpu.unlink()
    assert library.available("cuda") == "is not built"
    with pytest.raises(NotReadyError, match="'cuda' is not built") as caught:
        choose("cuda", torch.bfloat16, 128, "cuda")
    assert caught.value.hint == "python -m cuda_ext.build"
    assert choose("cuda", torch.bfloat16, 128).why == "the cuda kernel is not built"


def test_a_machine_without_a_gpu_is_said(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "finds no NVIDIA GPU" in str(library.available("cuda"))


def test_too_old_a_gpu_is_said(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert "8.0 or newer, not 7.5" in str(library.available("cuda"))
    with pytest.raises(NotReadyError, match=r"8.0 or newer, not 7.5") as caught:
        choose("cuda", torch.bfloat16, 128, "cuda")
    assert caught.value.hint == "llama train --attention sdpa"


@pytest.mark.parametrize("code", [98, 209])
def test_too_old_a_gpu_is_said_by_a_launch_as_well(code: int) -> None:
    found = library.failure(code, "no kernel image is available for execution on the device")
    assert isinstance(found, NotReadyError)
    assert f"needs a GPU of compute capability 8.0 or newer (error {code})" in str(found)


def test_a_driver_older_than_the_library_is_an_error_with_its_cure() -> None:
    found = library.failure(35, "CUDA driver version is insufficient for CUDA runtime version")
    assert isinstance(found, NotReadyError)
    assert "driver is older than the CUDA that built" in str(found)
    assert found.hint == "llama train --attention sdpa"


def test_a_launch_that_fails_otherwise_is_said_in_cudas_words(emulated, monkeypatch) -> None:
    monkeypatch.setattr(emulated, "llama_attention_forward", lambda *_: 700)
    monkeypatch.setattr(emulated, "llama_attention_error", lambda _: b"an illegal address")
    with pytest.raises(LlamaError, match=r"failed: an illegal address \(error 700\)"):
        extension.causal_attention(Q, Q, Q)


def test_a_broken_library_is_said_with_its_path(gpu: Path) -> None:
    assert f"cannot be used: {gpu}" in str(library.available("cuda"))


def test_a_library_of_other_sources_is_said_with_its_cure(gpu: Path, monkeypatch) -> None:
    monkeypatch.setattr(library, "load", lambda _: None)
    assert "built from other sources than are here" in str(library.available("cuda"))
    with pytest.raises(NotReadyError) as caught:
        library.opened(torch.device("cuda"))
    assert caught.value.hint == "python -m cuda_ext.build"


def test_a_library_of_something_else_is_said(gpu: Path) -> None:
    other = ctypes.util.find_library("m")
    with pytest.raises(NotReadyError, match="llama_attention_version") as caught:
        library.load(Path(str(other)))
    assert caught.value.hint == "LLAMA_BUILD_CUDA=1 python -m cuda_ext.build"


def test_a_library_of_another_version_is_said(gpu, emulated_library, monkeypatch) -> None:
    shutil.copy(emulated_library._name, gpu)
    monkeypatch.setattr(library, "VERSION", library.VERSION + 1)
    assert "of version 2, not 3" in str(library.available("cuda"))
    assert "of version 2, not 3" in library.state()


def test_an_sm_80_gpu_and_a_good_library_are_enough(gpu, emulated_library, monkeypatch) -> None:
    shutil.copy(emulated_library._name, gpu)
    monkeypatch.setattr(build, "fresh", lambda _: True)
    assert library.available("cuda") is None
    assert library.opened(torch.device("cuda")) is library.opened(torch.device("cuda"))
    assert choose("cuda", torch.bfloat16, 128, "cuda").device == "cuda:0"


def test_a_device_other_than_a_gpu_is_not_for_the_kernel() -> None:
    assert library.available("cpu") == "runs on an NVIDIA GPU, not on a cpu"


@pytest.mark.parametrize("name", ["cuda", "sdpa"])
def test_wrong_arguments_are_refused_whichever_backend_runs(emulated, name: str) -> None:
    with pytest.raises(ValueError, match="q must be"):
        attention.causal_attention(Q, Q[:, :, :2], Q[:, :, :2], asked=name)

"""Ranks as a mesh: what divides, who has what, and how a run ends with one voice."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import set_forkserver_preload
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed import TCPStore
from torch.multiprocessing import start_processes

from llama_cli.errors import Elsewhere, LlamaError, UsageError
from llama_cli.model.config import SIZES
from llama_cli.model.split import split_dim
from llama_cli.parallel.mesh import ONE, Mesh, check, joined, shape


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as mesh:
        assert mesh == ONE
        assert mesh.told("a") == "a"
        mesh.wait()
        with mesh.first_alone():
            pass
    assert not dist.is_initialized()


def test_tensor_ranks_are_neighbours_and_replicas_are_far_apart() -> None:
    ranks = [Mesh(data=4, tensor=2, replicas=2, rank=rank) for rank in range(8)]
    assert [mesh.data_rank for mesh in ranks] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [mesh.tensor_rank for mesh in ranks] == [0, 1] * 4
    assert [mesh.shard_rank for mesh in ranks] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert [mesh.first for mesh in ranks] == [True] + [False] * 7


@pytest.mark.parametrize(
    ("world", "options", "words"),
    [
        (6, {"tensor": 4}, "6 processes cannot be shared by tensor groups of 4"),
        (1, {"tensor": 2}, "1 process cannot be shared by tensor groups of 2"),
        (6, {"replicas": 4}, "6 data ranks cannot hold 4 replicas of the weights"),
        (2, {"tensor": 2, "replicas": 2}, "1 data rank cannot hold 2 replicas of the weights"),
    ],
)
def test_processes_that_make_no_mesh_are_refused(
    world: int, options: dict[str, int], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        shape(world, **options)


def test_a_mesh_is_as_large_as_the_world() -> None:
    mesh = shape(24, tensor=2, replicas=3)
    assert (mesh.size, mesh.data, mesh.shards) == (24, 12, 4)


@pytest.mark.parametrize(
    ("changes", "tensor", "words", "hint"),
    [
        ({}, 8, "52 heads of the 33b", "--tensor 4"),
        ({"heads": 104}, 16, "104 heads of the 33b", "--tensor 8"),
        ({"kv_heads": 26}, 4, "26 heads of keys and values of the 33b", "--tensor 2"),
        ({"hidden": 17_919}, 4, "17,919 hidden width of the 33b", "--tensor 1"),
        ({"vocab_size": 32_002}, 4, "32,002 pieces of the vocabulary", "--tensor 2"),
        ({"context": 2050}, 4, "2,050 positions of a sequence", "--tensor 2"),
    ],
)
def test_what_does_not_divide_is_refused_with_the_next_that_does(
    changes: dict[str, int], tensor: int, words: str, hint: str
) -> None:
    config = replace(SIZES["33b"], **changes)
    with pytest.raises(UsageError, match=f"the {words} do not divide by {tensor}") as caught:
        check(Mesh(tensor=tensor), config, batch=8, size="33b")
    assert caught.value.hint == f"llama train {hint}"


def test_a_tied_model_is_trained_by_one_process() -> None:
    config = replace(SIZES["3m"], tied=True)
    check(Mesh(), config, batch=8, size="3m")
    with pytest.raises(UsageError, match="whose head is its embedding is trained by one process"):
        check(Mesh(data=2), config, batch=8, size="3m")


def test_every_size_divides_by_what_the_paper_may_have_used() -> None:
    for size, config in SIZES.items():
        if size.endswith("b"):
            check(Mesh(data=4, tensor=4), config, batch=2048, size=size)


def test_every_parameter_but_the_norms_is_split() -> None:
    from llama_cli.model.transformer import Transformer

    with torch.device("meta"):
        model = Transformer(SIZES["3m"])
    for name, weight in model.named_parameters():
        assert (split_dim(name) is None) == (weight.dim() == 1), name


def quiet(mesh: Mesh) -> None:
    pass


def one_errs(mesh: Mesh) -> None:
    if mesh.rank == 1:
        raise LlamaError("the disk of rank 1 is full")
    mesh.wait()


def all_err(mesh: Mesh) -> None:
    raise LlamaError("the loss is not a number")


def one_is_killed(mesh: Mesh) -> None:
    if mesh.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    mesh.wait()


def one_has_a_bug(mesh: Mesh) -> None:
    if mesh.rank == 1:
        raise ZeroDivisionError("ours")
    mesh.wait()


def begin(rank: int, act: Callable[[Mesh], None], tensor: int, port: int, folder: Path) -> None:
    """Be a rank, as torchrun would start it, and write down how the run ends here."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="3", MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")
    os.environ.pop("LLAMA_LAUNCHER", None)
    try:
        with joined("cpu", tensor=tensor) as mesh:
            act(mesh)
        words = "well"
    except Elsewhere as error:
        words = f"silent {error.exit_code}"
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
    (folder / str(rank)).write_text(words)


def ends(folder: Path, act: Callable[[Mesh], None], *, tensor: int = 1) -> list[str]:
    """Run three ranks, and list how each ended."""
    set_forkserver_preload([__name__])
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = start_processes(
        begin, (act, tensor, store.port, folder), nprocs=3, join=False, start_method="forkserver"
    )
    for process in started.processes:
        process.join(60)
        assert process.exitcode is not None
    paths = [folder / str(rank) for rank in range(3)]
    return [path.read_text() if path.exists() else "killed" for path in paths]


def test_ranks_part_in_peace(tmp_path: Path) -> None:
    assert ends(tmp_path, quiet) == ["well"] * 3


def test_the_rank_that_errs_speaks_and_the_others_are_silent(tmp_path: Path) -> None:
    said = ends(tmp_path, one_errs)
    assert said == ["silent 1", "LlamaError: the disk of rank 1 is full", "silent 1"]


def test_an_error_of_all_ranks_is_said_once(tmp_path: Path) -> None:
    said = ends(tmp_path, all_err)
    assert sorted(said) == ["LlamaError: the loss is not a number", "silent 1", "silent 1"]


def test_a_killed_rank_is_missed_by_one_of_the_others(tmp_path: Path) -> None:
    said = ends(tmp_path, one_is_killed)
    assert sorted(said) == ["LlamaError: a process of this run has gone", "killed", "silent 1"]


def test_a_bug_of_one_rank_is_not_taken_for_a_lost_connection(tmp_path: Path) -> None:
    assert ends(tmp_path, one_has_a_bug) == ["silent 1", "ZeroDivisionError: ours", "silent 1"]


def test_a_mesh_that_cannot_be_is_refused_once(tmp_path: Path) -> None:
    said = ends(tmp_path, quiet, tensor=2)
    wanted = "UsageError: 3 processes cannot be shared by tensor groups of 2"
    assert sorted(said) == [wanted, "silent 2", "silent 2"]

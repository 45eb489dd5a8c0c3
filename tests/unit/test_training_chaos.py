"""Runs that are killed again and again, at any moment, end as those that never were.

Ranks are processes of their own on gloo, ended by kill -9: one of them or all, at a random moment,
or while a checkpoint is being written. What is left of a run then goes on, as under a launcher: on
as many ranks, or on others.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context, set_forkserver_preload
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed import TCPStore

from llama_cli.model.parts import files
from llama_cli.model.stored import load_whole
from llama_cli.model.transformer import Transformer
from llama_cli.model.weights import MODEL, find_checkpoint
from llama_cli.parallel.mesh import joined
from llama_cli.training import build
from llama_cli.training import run as module
from llama_cli.training.checkpoint import OPTIMIZER
from llama_cli.training.data import Sequences
from llama_cli.training.job import Job, Listener, Way
from llama_cli.training.lock import locked
from llama_cli.training.log import NAME, read_log
from llama_cli.training.settings import Settings
from tests.unit.training import CONFIG, write_sequences

STEPS, KILLS = 200, 20
SETTINGS = Settings(steps=STEPS, batch=4, lr=1e-2, warmup=10)
FOREVER = 100.0  # seconds in which something must have happened


@dataclass(frozen=True)
class World:
    """How many ranks train, and in what precision."""

    ranks: int
    tensor: int = 1
    double: bool = False


def work(rank: int, world: World, port: int, attempt: int, run: Path) -> None:
    """Train as one rank."""
    torch.set_num_threads(1)
    os.dup2(os.open(run.parent / f"said-{rank}", os.O_WRONLY | os.O_CREAT), 2)
    if world.double:
        build.Transformer = lambda *args, **options: Transformer(*args, **options).double()  # type: ignore[assignment,misc]
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world.ranks),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
        TORCHELASTIC_RESTART_COUNT=str(attempt),
        TORCH_CPP_LOG_LEVEL="ERROR",
    )
    silent = Listener(time.monotonic, time.process_time, lambda text: None, lambda line: None)
    with ExitStack() as stack:
        mesh = stack.enter_context(joined("cpu", tensor=world.tensor))
        if mesh.first:
            stack.enter_context(locked(run))
        data = Sequences(run.parent / "data")
        way = Way(checkpoint_every=5, activations="linear")
        module.train(Job(run, "tiny", CONFIG, SETTINGS, data, way=way, mesh=mesh), silent)


class Run:
    """A run that is started, killed and started again."""

    def __init__(self, run: Path) -> None:
        self.run, self.attempts = run, 0
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        run.mkdir()

    def start(self, world: World) -> list[BaseProcess]:
        context = get_context("forkserver")
        self.attempts += 1
        ranks = [
            context.Process(
                target=work, args=(rank, world, self.store.port, self.attempts, self.run)
            )
            for rank in range(world.ranks)
        ]
        for process in ranks:
            process.start()
        return ranks

    def to_the_end(self, world: World) -> None:
        ranks = self.start(world)
        for process in ranks:
            process.join(FOREVER)
        assert [process.exitcode for process in ranks] == [0] * world.ranks

    def killed(self, world: World, draw: random.Random) -> bool:
        """Start, kill, and say whether a checkpoint was being written then."""
        saved, log, ranks = self.saved(), self.log(), self.start(world)
        try:
            self.wait_for_a_moment(saved, log, draw, ranks)
            victims = ranks if draw.random() < 0.3 else [draw.choice(ranks)]
            assert None in [process.exitcode for process in ranks]
            for process in victims:
                process.kill()
            for process in victims:
                process.join(FOREVER)
        finally:
            for process in ranks:  # as a launcher does, after its patience
                process.kill()
                process.join(FOREVER)
        return bool(self.parts())

    def wait_for_a_moment(
        self, saved: int, log: int, draw: random.Random, ranks: Sequence[BaseProcess]
    ) -> None:
        """Wait for one of the first seconds, for a checkpoint begun, or for one of ten steps."""
        if draw.random() < 0.2:
            time.sleep(draw.uniform(0, 2))
            return
        wait(lambda: self.log() != log and self.step() > saved, ranks)
        if draw.random() < 0.5:
            wait(lambda: bool(self.parts()), ranks)
        else:
            last = saved + draw.randrange(1, 10)
            wait(lambda: self.step() >= last, ranks)
            time.sleep(draw.uniform(0, 0.02))

    def log(self) -> int:
        """Tell one start's log from another's."""
        path = self.run / NAME
        return path.stat().st_ino if path.exists() else 0

    def step(self) -> int:
        return self.losses[-1][0] if self.losses else 0

    def saved(self) -> int:
        names = sorted(path.name for path in self.run.glob("checkpoint-*"))
        return int(names[-1].rpartition("-")[2]) if names else 0

    def parts(self) -> list[Path]:
        return list(self.run.glob(".checkpoint-*.part"))

    @property
    def losses(self) -> list[tuple[int, float]]:
        lines = read_log(self.run / NAME)
        return [(line["step"], line["loss"]) for line in lines if "loss" in line]

    @property
    def state(self) -> dict[str, Tensor]:
        """Give the last weights and moments."""
        checkpoint = find_checkpoint(self.run)
        assert checkpoint.name == f"checkpoint-{STEPS:07d}"
        stems = (MODEL, OPTIMIZER)
        return {k: x for stem in stems for k, x in load_whole(files(checkpoint, stem)).items()}


def wait(condition: Callable[[], bool], ranks: Sequence[BaseProcess]) -> None:
    end = time.monotonic() + FOREVER
    while not condition():
        assert time.monotonic() < end
        assert None in [process.exitcode for process in ranks]
        time.sleep(0.001)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Run, Run]:
    """Give a run that is left alone, and one that is not."""
    set_forkserver_preload(["tests.unit.test_training_chaos"])
    write_sequences(tmp_path / "data", 1000)
    return Run(tmp_path / "whole"), Run(tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_kills_end_with_the_same_bits_on_one_mesh(runs: tuple[Run, Run]) -> None:
    """Slow: 21 starts of four ranks."""
    whole, killed = runs
    world, draw = World(4, tensor=2), random.Random(0)
    whole.to_the_end(world)
    torn = [killed.killed(world, draw) for _ in range(KILLS)]
    killed.to_the_end(world)
    assert sum(torn) >= 3  # kills that met a checkpoint being written
    assert killed.losses == whole.losses
    assert [step for step, _ in killed.losses] == list(range(1, STEPS + 1))
    left, right = killed.state, whole.state
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_kills_end_with_the_same_numbers_on_other_meshes(runs: tuple[Run, Run]) -> None:
    """Slow: 21 starts of up to four ranks."""
    whole, killed = runs
    worlds = [World(4, 2, True), World(2, 1, True), World(1, 1, True), World(4, 1, True)]
    draw = random.Random(1)
    whole.to_the_end(worlds[0])
    for number in range(KILLS):
        killed.killed(worlds[number % len(worlds)], draw)
    killed.to_the_end(World(2, 2, True))
    assert [step for step, _ in killed.losses] == list(range(1, STEPS + 1))
    for (_, one), (_, other) in zip(killed.losses, whole.losses, strict=True):
        assert one == pytest.approx(other, rel=1e-9)
    left, right = killed.state, whole.state
    assert left.keys() == right.keys()
    assert all(x.dtype == torch.float64 for x in left.values())
    worst = max(((left[k] - right[k]).norm() / right[k].norm()).item() for k in left)
    assert worst < 1e-9

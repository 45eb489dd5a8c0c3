"""A whole training run in a directory, which the same call continues.

    RUN/settings.json   what decides the weights; another value is refused
    RUN/log.jsonl       log.py
    RUN/checkpoint-*/   checkpoint.py
    RUN/loss.png        at the end

Steps are counted from 1. Words go to `say`, log lines to `on_line` as well as to the log, and
the clock is the caller's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from torch import Tensor

from llama_cli.errors import Interrupted, LlamaError
from llama_cli.kernels.attention import Choice, choose
from llama_cli.model.config import Activations, ModelConfig
from llama_cli.model.transformer import Transformer
from llama_cli.parallel.mesh import ONE, Mesh, check
from llama_cli.parallel.plan import flops_per_token
from llama_cli.parallel.tensor import exchange, split
from llama_cli.training.checkpoint import (
    clear_leftovers,
    newest,
    restore,
    save_checkpoint,
    step_of,
)
from llama_cli.training.data import Sequences
from llama_cli.training.log import Line, RunLog
from llama_cli.training.loop import Step, Trainer
from llama_cli.training.plot import curves, save_png
from llama_cli.training.settings import Settings
from llama_cli.training.speed import peak_flops
from llama_cli.training.stop import Stop, stoppable

SETTINGS = "settings.json"
ENDS = (Signals.SIGTERM, Signals.SIGINT)  # after which a run is saved and ends
VALIDATION_SEQUENCES = 64  # the first of the validation data; ours


@dataclass(frozen=True, slots=True)
class Way:
    """How a run is carried out: what changes its speed or its files, not its mathematics."""

    device: str = "cpu"
    attention: str | None = None
    deterministic: bool = True  # the gradients of the attention kernel; others' always are
    compile: bool = False
    micro_batch: int | None = None  # sequences of one data rank
    activations: Activations = "keep"
    reshard: bool = True  # give a layer's weights back between forward and backward
    checkpoint_every: int = 1000
    validation_every: int = 1000
    keep: int = 2


@dataclass(frozen=True, slots=True)
class Job:
    """What to train, on what, and how. The first rank holds the lock of `run`."""

    run: Path
    size: str
    config: ModelConfig
    settings: Settings
    data: Sequences
    validation: Tensor | None = None  # sequences (B, L + 1)
    tokenizer: bytes | None = None
    way: Way = Way()
    mesh: Mesh = ONE

    def decisive(self) -> dict[str, Any]:
        """Name everything on which the final weights depend."""
        return {
            "size": self.size,
            "model": self.config.to_params(),
            "data": self.data.fingerprint,
            **self.settings.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told what happens, and by which clocks, in seconds."""

    clock: Callable[[], float]
    cpu_clock: Callable[[], float]  # of the processor's time that this process had
    say: Callable[[str], None]
    on_line: Callable[[Line], None]


def train(job: Job, listener: Listener) -> bool:
    """Train from the newest whole checkpoint, or from the start, to the last step.

    Every rank of the job's mesh calls it; the first alone writes and speaks.

    Returns:
        False if the run was finished already.

    Raises:
        UsageError: model or batch do not divide over the mesh.
        LlamaError: the directory holds a run with other settings.
        NotReadyError: the attention asked for is not there, or not for this dtype or model.
        Interrupted: SIGTERM came; a checkpoint is saved.
        KeyboardInterrupt: Ctrl-C; a checkpoint is saved.
    """
    check(job.mesh, job.config, batch=job.settings.batch, size=job.size)
    found = job.mesh.told(_opened(job) if job.mesh.first else None)
    if found and step_of(found) >= job.settings.steps:
        _save_curves(job)
        return False
    with _deterministic(job.way.device), stoppable() as stop:
        trainer = build(job, listener.say)
        if found:
            done = restore(found, trainer)
            listener.say(f"continuing after step {done:,} of {job.settings.steps:,}")
        else:
            done = 0
            trainer.draw_weights()
        _Loop(job, trainer, listener, done).to_the_end(stop)
    _save_curves(job)
    return True


def _opened(job: Job) -> Path | None:
    """Check the directory against the job, and give the checkpoint to continue from."""
    if not (job.run / SETTINGS).exists():
        _attention(job)  # raises before settings are written that its cure would contradict
    _same_run(job)
    clear_leftovers(job.run)
    return newest(job.run)


def _save_curves(job: Job) -> None:
    path = job.run / "loss.png"
    if job.mesh.first and not path.exists():
        save_png(path, *curves(job.run), title=f"LLaMA {job.size}")


class _Loop:
    """The steps of one process's part of a run, and what the first rank writes between them."""

    def __init__(self, job: Job, trainer: Trainer, listener: Listener, done: int) -> None:
        self.job, self.trainer, self.listener = job, trainer, listener
        self.done = done
        self.flops = flops_per_token(job.config, job.data.length)
        self.peak: float | None = None
        self.log: RunLog | None = None
        if job.mesh.first:
            about = _about(job, trainer, listener)
            self.peak = about["peak_flops"]
            self.log = RunLog(job.run, about=about, step=done)
        self.clock = listener.clock()

    def to_the_end(self, stop: Stop) -> None:
        """Do every step that is left."""
        job = self.job
        try:
            if not self.done:
                self._validate()
            while self.done < job.settings.steps:
                asked = self._step(stop)
                last = self.done == job.settings.steps
                if last or self.done % job.way.validation_every == 0:
                    self._validate()
                if last or asked or self.done % job.way.checkpoint_every == 0:
                    self._save()
                if asked and not last:
                    _end(asked, self.done, self.listener.say)
        finally:
            if self.log:
                self.log.close()

    def _step(self, stop: Stop) -> Signals | None:
        """Do one step; give the signal that any rank got before it, if any did."""
        number, settings = self.done + 1, self.job.settings
        start = self.listener.clock()
        flags = [stop.signal is one for one in ENDS]
        step = self.trainer.step(number, self._batch(number), flags=flags)
        if not isfinite(step.loss):
            raise LlamaError(
                f"the loss of step {number} is not a number",
                hint=f"llama train --run ANOTHER --lr {settings.lr / 2:g}",
            )
        self.done = number
        self._write(self._line(step, start))
        if self.job.mesh.size == 1:
            return stop.signal
        return next((one for one, raised in zip(ENDS, step.flags, strict=True) if raised), None)

    def _batch(self, number: int) -> Tensor:
        """Give this rank's rows of a step's batch."""
        size = self.job.settings.batch
        rows, start = self.job.mesh.rows(size), (number - 1) * size
        return self.job.data.rows(range(start + rows.start, start + rows.stop))

    def _line(self, step: Step, start: float) -> Line:
        now = self.listener.clock()
        seconds, self.clock = now - self.clock, now
        tokens = self.job.settings.batch * self.job.data.length
        rate = tokens / max(now - start, 1e-9)
        each = rate / self.job.mesh.size
        return {
            "step": step.step,
            "loss": step.loss,
            "lr": step.lr,
            "grad_norm": step.grad_norm,
            "tokens": tokens * step.step,
            "tokens_per_second": round(rate, 1),
            "tokens_per_second_per_gpu": round(each, 1),
            "mfu": round(self.flops * each / self.peak, 4) if self.peak else None,
            "seconds": seconds,
        }

    def _validate(self) -> None:
        if self.job.validation is not None:
            loss = self.trainer.evaluate(self.job.validation)
            self._write({"step": self.done, "validation_loss": loss})

    def _write(self, line: Line) -> None:
        if self.log:
            self.log.write(line)
            self.listener.on_line(line)

    def _save(self) -> None:
        if self.log:
            self.log.sync()
        save_checkpoint(
            self.job.run,
            self.done,
            self.trainer,
            settings=self.job.decisive(),
            tokenizer=self.job.tokenizer,
            keep=self.job.way.keep,
        )


def _end(signal: Signals, step: int, say: Callable[[str], None]) -> None:
    message = f"stopped after step {step:,}, with a checkpoint"
    if signal is Signals.SIGINT:
        say(message)
        raise KeyboardInterrupt
    raise Interrupted(message, hint="the same command again")


def build(job: Job, say: Callable[[str], None]) -> Trainer:
    """Make this rank's part of model and optimizer; the weights are still to be set."""
    way, attention = job.way, _attention(job)
    mesh = replace(job.mesh, device=way.device)
    if attention.failed:
        say(f"attention {attention}")
    with torch.device("meta"):
        model = Transformer(
            job.config,
            attention=attention.name,
            deterministic=way.deterministic,
            activations=way.activations,
            exchange=exchange(mesh),
        )
    split(model, mesh)
    return Trainer(
        model,
        job.settings,
        micro_batch=way.micro_batch,
        compile=way.compile,
        mesh=mesh,
        reshard=way.reshard,
    )


def _attention(job: Job) -> Choice:
    dtype = torch.bfloat16 if job.settings.dtype == "bf16" else torch.float32
    return choose(job.way.device, dtype, job.config.head_dim, job.way.attention)


def _about(job: Job, trainer: Trainer, listener: Listener) -> dict[str, Any]:
    device, dtype = trainer.device, job.settings.dtype
    peak, source = peak_flops(device, dtype, listener.cpu_clock)
    on_gpu = device.type == "cuda"
    attention = _attention(job)
    return {
        "size": job.size,
        "parameters": job.config.parameters,
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "processes": job.mesh.size,
        "tensor": job.mesh.tensor,
        "replicas": job.mesh.replicas,
        "threads": torch.get_num_threads(),
        "steps": job.settings.steps,
        "batch": job.settings.batch,
        "length": job.data.length,
        "dtype": dtype,
        "attention": attention.name,
        "attention_because": attention.why,
        "deterministic": job.way.deterministic or attention.name != "cuda",
        "compile": job.way.compile,
        "activations": job.way.activations,
        "peak_flops": peak,
        "peak_from": source,
    }


def _same_run(job: Job) -> None:
    path, wanted = job.run / SETTINGS, job.decisive()
    if not path.exists():
        part = path.with_name(f".{SETTINGS}.part")
        part.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
        part.rename(path)
        return
    held = _held(path)
    for name, value in wanted.items():
        if held.get(name) != value:
            raise LlamaError(
                f"{job.run} holds a run with {_difference(name, held.get(name), value)}",
                hint="llama train --run ANOTHER, or the settings it was begun with",
            )


def _held(path: Path) -> Mapping[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        held = None
    if not isinstance(held, dict):
        raise LlamaError(f"{path}: damaged", hint="llama train --run ANOTHER")
    return held


def _difference(name: str, held: object, wanted: object) -> str:
    if name == "data":
        return "other data"
    if isinstance(held, dict) and isinstance(wanted, dict):
        name = next(key for key in wanted if held.get(key) != wanted[key])
        held, wanted = held.get(name), wanted[name]
    return f"{name} {held}, not {wanted}"


@contextmanager
def _deterministic(device: str) -> Iterator[None]:
    """On a GPU, ask for kernels that add in a fixed order; a CPU's do so anyway."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it, on a GPU only
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(device == "cuda" or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)

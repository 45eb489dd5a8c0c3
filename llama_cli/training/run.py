"""A whole training run in a directory, which the same call continues.

    RUN/settings.json   what decides the weights; another value is refused
    RUN/config.toml     every option of the last start, and where it came from
    RUN/log.jsonl       log.py
    RUN/checkpoint-*/   checkpoint.py; saving.py
    RUN/skipped.json    spike.py, if batches are left out
    RUN/loss.png        at checkpoints, and at the end

Steps are counted from 1. Words go to `say`, log lines to `on_line` as well as to the log, and
the clock is the caller's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import Signals
from typing import Any

import torch

from llama_cli.errors import Interrupted, LlamaError
from llama_cli.parallel.mesh import check
from llama_cli.parallel.plan import flops_per_token
from llama_cli.training.batch import Batch
from llama_cli.training.build import build, describe
from llama_cli.training.checkpoint import (
    about,
    forget,
    newest,
    restore,
    step_of,
)
from llama_cli.training.data import Starved, apart
from llama_cli.training.job import Job, Listener
from llama_cli.training.log import Line, RunLog
from llama_cli.training.loop import Step, Trainer
from llama_cli.training.memory import peak_memory
from llama_cli.training.plot import PICTURE, Picture, save_curves
from llama_cli.training.prefetch import Prefetch
from llama_cli.training.resume import place_to_go_on
from llama_cli.training.saving import Saved, Saver, Shelf
from llama_cli.training.spike import Guard, Left
from llama_cli.training.start import Start
from llama_cli.training.stop import ENDS, Stop, stoppable

VALIDATION_SEQUENCES = 64  # the first of the validation data; ours


def train(job: Job, listener: Listener) -> bool:
    """Train from the newest whole checkpoint, or from the start, to the last step.

    Every rank of the job's mesh calls it; the first alone writes and speaks.

    Returns:
        False if the run was finished already.

    Raises:
        UsageError: the model does not divide over the mesh, or the batch is too small for it.
        LlamaError: the directory holds a run with other settings, or is not the same on all
            machines; or the last checkpoint could not be written.
        NotReadyError: the attention asked for is not there, or not for this dtype or model.
        Interrupted: SIGTERM or SIGUSR1 came; a checkpoint is saved.
        KeyboardInterrupt: Ctrl-C; a checkpoint is saved.
    """
    check(job.mesh, job.config, batch=job.settings.batch, size=job.size)
    if job.settings.batch % job.mesh.data:
        rows = f"{job.settings.batch:,} sequences a step over {job.mesh.data} data ranks"
        listener.say(f"{rows}: some have one more, for which the others wait")
    found, skipped = place_to_go_on(job, listener.say)
    if found and step_of(found) >= job.settings.steps:
        if job.mesh.first and not (job.run / PICTURE).exists():
            save_curves(job.run, _title(job))
        return False
    with _deterministic(job.way.device), stoppable() as stop:
        trainer = build(job, listener.say)
        guard = Guard(job.way.on_spike, skipped)
        done = put_back(found, trainer, guard, job.start)
        if found:
            listener.say(f"continuing after step {done:,} of {job.settings.steps:,}")
        _Loop(job, trainer, listener, done, guard).to_the_end(stop)
    return True


def put_back(found: Path | None, trainer: Trainer, guard: Guard, start: Start | None) -> int:
    """Set weights, moments and what judges spikes as a checkpoint has them, or as at the start."""
    if found is None:
        trainer.begin()
        if start:
            start.load(trainer)
        guard.remember(None)
        return 0
    guard.remember(about(found).get("recent"))
    return restore(found, trainer)


def _title(job: Job) -> str:
    return f"LLaMA {job.size}"


class _Loop:
    """The steps of one process's part of a run, and what the first rank writes between them."""

    def __init__(
        self, job: Job, trainer: Trainer, listener: Listener, done: int, guard: Guard
    ) -> None:
        self.job, self.trainer, self.listener, self.guard = job, trainer, listener, guard
        self.done = done
        self.flops = flops_per_token(job.config, job.data.length)
        self.about: dict[str, Any] = {"peak_flops": None}
        self.log: RunLog | None = None
        if job.mesh.first:
            self.about = describe(job, trainer, listener.cpu_clock)
            left_out = [left.to_line() for left in guard.skipped.left]
            self.log = RunLog(job.run, about=self.about, step=done, spikes=left_out)
        self.picture = Picture(job.run, _title(job), listener.clock)
        shelf = Shelf(job.run, job.mesh, job.config, job.tokenizer, job.way.keep)
        self.saver = Saver(shelf, self._saved, asynchronous=job.way.async_checkpoints)
        batch = guard.skipped.batch
        self.batches = Prefetch(self._read, first=batch(done + 1), last=batch(job.settings.steps))
        self.clock = listener.clock()

    def to_the_end(self, stop: Stop) -> None:
        """Do every step that is left."""
        job = self.job
        try:
            if not self.done:
                self._validate()
            while self.done < job.settings.steps:
                before = self.done
                asked = self._step(stop)
                last = self.done == job.settings.steps
                due = self.done > before  # else a spike has held it, or thrown it back
                if due and (last or self.done % job.way.validation_every == 0):
                    self._validate()
                if asked or (due and (last or self.done % job.way.checkpoint_every == 0)):
                    self._save()
                if asked and not last:
                    self._stop(asked)
            self._settle_the_last()
            self._write({"step": self.done, "end": "finished"})
        except BaseException as error:
            with suppress(OSError):  # it may be what stopped the run
                if job.mesh.size > 1:  # some may have gone
                    self.saver.give_up()
                elif isinstance(error, Exception):
                    self.saver.settle()
                self._write({"step": self.done, "end": "stopped", "why": _reason(error)})
            raise
        finally:
            self._close()
        if job.mesh.first:
            save_curves(job.run, _title(job))

    def _close(self) -> None:
        self.batches.close()
        self.picture.close()
        if self.log:
            self.log.close()

    def _step(self, stop: Stop) -> Signals | None:
        """Do one step; give the signal that any rank got before it, if any did."""
        number, clock = self.done + 1, self.listener.clock
        batch = self.guard.skipped.batch(number)
        start = clock()
        tokens = self._batch(batch, stop)
        waited = clock() - start
        if not isinstance(tokens, Batch):
            return tokens
        flags = [stop.signal is one for one in ENDS]
        step = self.trainer.step(number, tokens, flags=flags, accept=self.guard.accept)
        self.saver.report()
        if self._is_fit(step, batch):
            self.guard.recent.add(step.loss, step.grad_norm)
            self.done = number
            self._write(self._line(step, start, waited))
        if self.job.mesh.size == 1:
            return stop.signal
        return next((one for one, raised in zip(ENDS, step.flags, strict=True) if raised), None)

    def _batch(self, number: int, stop: Stop) -> Batch | Signals | None:
        """Give this rank's rows of a batch; or the signal for which the run stops before they come.

        A process alone need not wait for a stream that rests; ranks stop together, at a step.
        """
        try:
            found = self.batches.get(number, lambda: bool(stop) and self.job.mesh.size == 1)
            return stop.signal if found is None else found
        except Starved:  # every rank is here: nothing is lost
            asked = next((one for one in self.job.mesh.gathered(stop.signal) if one), None)
            if asked:
                return asked
            self._save()
            self.saver.settle()
            raise

    def _read(self, number: int) -> Batch:
        """Read them; called ahead of the step, in another thread."""
        job, size = self.job, self.job.settings.batch
        batch = job.data.batch(number, size, job.mesh.rows(size))
        if not job.settings.cross_document and batch.bounds is None:
            batch = apart(batch)
        if size % job.mesh.data:  # all ranks make the same calls
            batch = batch.padded(job.mesh.most_rows(size))
        return batch.pinned() if job.way.device == "cuda" else batch

    def _is_fit(self, step: Step, batch: int) -> bool:
        """Say whether a step counts; one that is a spike may not, or may end the run."""
        verdict = self.guard.judge(batch, step.loss, step.grad_norm)
        if verdict is None:
            return True
        where = f"step {step.step:,}: {verdict.why}"
        if verdict.choice == "noted":
            self._spike({"step": step.step, "spike": "noted", "why": verdict.why}, where)
            return True
        if verdict.choice == "stop":
            self.saver.settle()
            self._write({"step": step.step, "spike": "stop", "why": verdict.why})
            lr = self.job.settings.lr / 2
            hint = f"llama train --on-spike rewind or skip; or --run ANOTHER --lr {lr:g}"
            raise LlamaError(where, hint=hint)
        if verdict.choice == "rewind":
            self._rewind(batch, verdict.why, where)
        else:
            left = Left(batch, batch, self.done, "skip", verdict.why)
            self._leave_out(left)
            self._spike(left.to_line(), f"{where}; batch {batch:,} is left out")
        return False

    def _rewind(self, batch: int, why: str, where: str) -> None:
        """Go back to the newest checkpoint that is there however often the run was stopped."""
        job, every = self.job, self.job.way.checkpoint_every
        self.saver.settle()
        found = newest(job.run, job.mesh, self.listener.say, every=every)
        step = step_of(found) if found else 0
        if self.guard.is_in_vain(step):
            raise LlamaError(
                f"{where}, as often before after step {step:,}",
                hint=f"llama train --run ANOTHER --lr {job.settings.lr / 2:g}",
            )
        left = Left(self.guard.skipped.batch(step + 1), batch, step, "rewind", why)
        self._leave_out(left)
        if self.log:
            forget(job.run, after=step)
            self.log.close()
            self.log = RunLog(job.run, about=self.about, step=step)
        self.done = put_back(found, self.trainer, self.guard, job.start)
        batches = f"batches {left.first:,} to {left.last:,} are left out"
        self._spike(left.to_line(), f"{where}; back to step {step:,}, {batches}")

    def _leave_out(self, left: Left) -> None:
        """Remember it before anything else is done, so that a run that is killed here knows too."""
        self.guard.skipped.add(left)
        if self.job.mesh.first:
            self.guard.skipped.save(self.job.run)

    def _spike(self, line: Line, words: str) -> None:
        self._write(line)
        self.listener.say(words)

    def _line(self, step: Step, start: float, waited: float) -> Line:
        memory, data_wait, watts = self._figures(waited)
        now = self.listener.clock()
        seconds, self.clock = now - self.clock, now
        tokens = self.job.settings.batch * self.job.data.length
        rate = tokens / max(now - start, 1e-9)
        each, peak = rate / self.job.mesh.size, self.about["peak_flops"]
        return {
            "step": step.step,
            "loss": step.loss,
            "lr": step.lr,
            "grad_norm": step.grad_norm,
            "tokens": tokens * step.step,
            "tokens_per_second": round(rate, 1),
            "tokens_per_second_per_gpu": round(each, 1),
            "mfu": round(self.flops * each / peak, 4) if peak else None,
            "memory": memory,
            "watts": watts,
            "data_wait": data_wait,
            "seconds": seconds,
        }

    def _figures(self, waited: float) -> tuple[int, float, float | None]:
        """Give the most memory of any rank, the longest wait for data, and the watts of all."""
        mesh, device, watts = self.job.mesh, self.trainer.device, self.listener.watts()
        told = torch.full((2 + mesh.size,), -1.0, dtype=torch.float64)
        told[0], told[1] = peak_memory(device), waited
        if watts is not None:
            told[2 + mesh.rank] = watts
        memory, wait, *each = mesh.largest(told.to(device)).tolist()
        return int(memory), wait, None if min(each) < 0 else round(sum(each), 1)

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
        every = self.job.way.checkpoint_every
        self.saver.begin(
            self.done,
            self.trainer,
            {**self.job.decisive(), **self.guard.to_json()},
            every=every if self.job.way.on_spike == "rewind" else None,
        )
        if self.job.mesh.first:
            self.picture.refresh()

    def _saved(self, saved: Saved) -> None:
        if saved.why_not is None:
            self._write({"step": saved.step, "checkpoint": saved.name})
        else:
            self._write({"step": saved.step, "checkpoint_failed": saved.why_not})
            self.listener.say(f"the checkpoint of step {saved.step:,} failed: {saved.why_not}")

    def _settle_the_last(self) -> None:
        """Wait for the last checkpoint.

        Raises:
            LlamaError: it could not be written.
        """
        self.saver.settle()
        last = self.saver.last
        if last and last.why_not:
            raise LlamaError(
                f"the last step, {self.done:,}, is not saved: {last.why_not}",
                hint="the same command again; it goes on from the newest checkpoint, if any",
            )

    def _stop(self, signal: Signals) -> None:
        """End after a signal.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            Interrupted: after another.
        """
        self.saver.settle()
        last = self.saver.last
        failed = last and last.why_not
        saved = f", which is not saved: {failed}" if failed else ", with a checkpoint"
        message = f"stopped after step {self.done:,}{saved}"
        if signal is Signals.SIGINT:
            self.listener.say(message)
            raise KeyboardInterrupt
        raise Interrupted(message, hint="the same command again")


def _reason(error: BaseException) -> str:
    """Say in a word why a run has stopped."""
    if isinstance(error, KeyboardInterrupt):
        return "Ctrl-C"
    return str(error) or type(error).__name__


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

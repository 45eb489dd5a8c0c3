"""What became of one program."""

from __future__ import annotations

import hmac
import signal
from dataclasses import dataclass
from typing import Literal

from llama_cli.errors import LlamaError
from llama_cli.evaluation.sandbox.candidate import READY
from llama_cli.evaluation.sandbox.limits import Limits
from llama_cli.evaluation.sandbox.watch import Ended

Outcome = Literal["passed", "failed", "timeout", "memory", "output", "killed"]
_READY = READY.decode()

# what ends a process at its limit of CPU time (setrlimit(2)). The kernel counts that by ticks of
# its clock and reports it to the microsecond, so on a busy machine less is reported: half is ours
_LIMIT = (signal.SIGKILL, signal.SIGXCPU)


@dataclass(frozen=True, slots=True)
class Result:
    """How one program ended, and where it ran."""

    outcome: Outcome
    detail: str  # the last line of its traceback, or what stopped it; empty if it passed
    seconds: float
    tier: str

    @property
    def passed(self) -> bool:
        """Tell whether every line of the program, its tests included, was run."""
        return self.outcome == "passed"


def judge(ended: Ended, *, token: str, limits: Limits, tier: str) -> Result:
    """Read the end of a process; only the token, reported by it, is a pass.

    Raises:
        LlamaError: the sandbox failed, before the program began.
    """
    if not ended.report.startswith(_READY) and not ended.stopped:
        why = " ".join(ended.words.split()) or f"it ended with {ended.code}"
        raise LlamaError(f"the {tier} sandbox could not be made: {why}")
    report = ended.report.removeprefix(_READY)
    outcome, detail = _outcome(report, ended, token, limits)
    return Result(outcome, detail, ended.seconds, tier)


def _outcome(report: str, ended: Ended, token: str, limits: Limits) -> tuple[Outcome, str]:
    if hmac.compare_digest(report.encode(), token.encode()):
        return "passed", ""
    if ended.stopped == "output":
        return "output", f"more than {limits.output:,} bytes of output"
    if ended.stopped == "wall":
        return "timeout", f"more than {limits.wall_seconds:g} seconds"
    if report.startswith("!"):
        memory = report.startswith("!MemoryError")
        return "memory" if memory else "failed", report[1:]
    if _signal(ended.code) in _LIMIT and ended.cpu_seconds > limits.cpu_seconds / 2:
        return "timeout", f"more than {limits.cpu_seconds} CPU seconds"
    return _unreported(ended)


def _unreported(ended: Ended) -> tuple[Outcome, str]:
    """Judge a process that ended without a word of its own."""
    if ended.stopped:
        return "killed", ended.stopped
    if number := _signal(ended.code):
        return "killed", f"signal {number}"
    return "failed", f"ended with {ended.code} before its tests did"


def _signal(code: int) -> int:
    """Give the signal behind an exit code, 0 if none; bubblewrap passes one on as a shell does."""
    return -code if code < 0 else max(0, code - 128)

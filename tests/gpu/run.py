"""All that `make gpu` does: build, test, watch with compute-sanitizer, time.

    python -m tests.gpu.run                           everything
    python -m tests.gpu.run --save attention.md       and keep the tables in this file too
    python -m tests.gpu.run --only build time         some steps

Every step runs even if one before it failed, but nothing runs on a library that was not built.
Exits with 1 if a step failed; tables of a kernel that failed a test say so.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

from tests.gpu import bounded, machine

PYTEST = (
    *("pytest", "tests/gpu", "--device", "cuda", "-p", "no:cacheprovider"),
    *("-W", "default"),  # a warning of another version of PyTorch is no reason to fail here
    *("--timeout", "90", "--timeout-method", "thread"),  # the only one that ends a hung kernel
    *("-rs", "--tb", "short", "--show-capture", "stdout", "--maxfail", "30", "--durations", "5"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """A Python module to run, for so many seconds at most (ours)."""

    name: str
    seconds: float
    module: tuple[str, ...]


STEPS = (
    Step("build", 95, ("cuda_ext.build",)),
    Step("test", 170, PYTEST),
    Step("sanitize", 160, ("tests.gpu.sanitize",)),
    Step("time", 115, ("tests.gpu.time_attention",)),
    Step("generate", 55, ("tests.gpu.time_generation",)),
)
TABLES = ("time", "generate")


def main() -> None:
    """Run the steps, and sum up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [step.name for step in STEPS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="STEP")
    parser.add_argument("--save", action="append", default=[], metavar="PATH")
    options = parser.parse_args()
    print(", ".join(machine.parts()), flush=True)
    failed = run([step for step in STEPS if step.name in options.only], options.save)
    if failed:
        raise SystemExit(f"make gpu: failed: {', '.join(failed)}")
    print("make gpu: all is well")


def run(steps: list[Step], save: list[str]) -> list[str]:
    """Run the steps, and return the names of those that failed."""
    failed: list[str] = []
    for step in steps:
        more = [word for path in save for word in ("--save", path)] if step.name in TABLES else []
        if step.name in TABLES and failed:
            more += ["--wrong", f"failed: {', '.join(failed)}"]
        if not passed(step, more):
            failed.append(step.name)
        if failed == ["build"]:
            break
    return failed


def passed(step: Step, more: list[str]) -> bool:
    """Run one step, and say how long it took and how it ended."""
    print(f"\n--- {step.name}", flush=True)
    begun = time.monotonic()
    status = bounded.run([sys.executable, "-m", *step.module, *more], step.seconds)
    ended = "ended, out of time" if status is None else "well" if status == 0 else "failed"
    print(f"--- {step.name}: {ended} after {time.monotonic() - begun:.0f} s", flush=True)
    return status == 0


if __name__ == "__main__":
    main()

"""Let compute-sanitizer watch the kernels, and say in a line for each of its tools what it saw.

    python -m tests.gpu.sanitize

Exits with 1 if a tool found an error. A tool that is not there, or that runs out of time, is
said and is no error.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time

from tests.gpu import bounded
from tests.gpu.variants import VARIANTS, done

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
ONE_TOOL, ALL_TOOLS = 70, 150  # seconds; ours
MOST_LINES = 30  # of what a tool has to say
PADDING = {"memcheck": ("--padding", "512")}  # bytes after each allocation, for nobody to touch


def find() -> str | None:
    """Find compute-sanitizer: under CUDA_HOME, on PATH, or where CUDA installs itself."""
    home = os.environ.get("CUDA_HOME")
    places = [*([f"{home}/bin"] if home else []), None, "/usr/local/cuda/bin"]
    found = (shutil.which("compute-sanitizer", path=place) for place in places)
    return next(filter(None, found), None)


def watch(path: str, tool: str, seconds: float) -> tuple[bool, str]:
    """Run one tool; return whether no error was found, and what to print."""
    command = [path, "--tool", tool, *PADDING.get(tool, ()), "--print-limit", "10"]
    command += [sys.executable, "-m", "tests.gpu.variants"]
    begun = time.monotonic()
    with tempfile.TemporaryFile() as file:
        status = bounded.run(command, seconds, into=file)
        file.seek(0)
        output = file.read().decode(errors="replace")
    good, said = judge(output, in_time=status is not None)
    line = f"{tool}: {said} [{time.monotonic() - begun:.0f} s]"
    return good, line if good else f"{line}\n{show(output)}"


def judge(output: str, *, in_time: bool = True) -> tuple[bool, str]:
    """Tell from what a tool printed whether no error was found, and what to say of it.

    A summary without errors counts only if the program under the tool came to its end.
    """
    found = re.findall(r"ERROR SUMMARY: (\d+) error", output)
    found += re.findall(r"RACECHECK SUMMARY: .*\((\d+) error", output)
    errors, warnings = sum(map(int, found)), re.search(r"error\w*, ([1-9]\d*) warning", output)
    if errors:
        return False, f"{errors} errors"
    if "the attention kernel failed" in output:
        return False, "the kernel failed"
    if not in_time:
        return True, "not finished in its time; no error until then"
    if found and done(len(VARIANTS)) in output:
        return True, f"clean, {warnings[1]} warnings" if warnings else "clean"
    return True, f"not available: {last_words(output)}"


def last_words(output: str) -> str:
    """Return the last line that says something.

    >>> last_words("========= COMPUTE-SANITIZER\\n========= Error: Device not supported\\n====\\n")
    'Error: Device not supported'
    """
    lines = [line.strip("= ") for line in output.splitlines() if line.strip("= ")]
    return lines[-1] if lines else "it said nothing"


def show(output: str) -> str:
    return "\n".join(f"  {line}" for line in output.splitlines()[:MOST_LINES])


def main() -> None:
    """Run every tool, one after the other."""
    path = find()
    if path is None:
        print("compute-sanitizer: not available: not on PATH, nor where CUDA installs itself")
        return
    end = time.monotonic() + ALL_TOOLS
    verdicts = []
    for tool in TOOLS:
        good, said = watch(path, tool, min(ONE_TOOL, max(1, end - time.monotonic())))
        print(said, flush=True)
        verdicts.append(good)
    if not all(verdicts):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

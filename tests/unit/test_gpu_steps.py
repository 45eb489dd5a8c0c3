"""The steps of `make gpu`: what runs, how it ends, and what compute-sanitizer's words mean."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.gpu import bounded, machine, run, sanitize, time_attention
from tests.gpu.table import Shape
from tests.gpu.variants import VARIANTS, done

RAN = done(len(VARIANTS))


def test_a_command_is_ended_with_all_it_started_when_its_time_is_out(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = f"(sleep 2; touch {mark}) & wait"
    begun = time.monotonic()
    assert bounded.run(["bash", "-c", script], 0.3) is None
    assert time.monotonic() - begun < 1.5
    time.sleep(2)
    assert not mark.exists()


def test_what_was_printed_before_the_end_is_kept(tmp_path: Path) -> None:
    script = "import time; print('so far'); time.sleep(20)"
    with (tmp_path / "said").open("wb") as file:
        assert bounded.run([sys.executable, "-c", script], 1.5, into=file) is None
    assert (tmp_path / "said").read_text() == "so far\n"


def test_a_command_that_ends_in_time_tells_its_status() -> None:
    assert bounded.run(["bash", "-c", "exit 3"], 20) == 3


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Run nothing; what would run is in the list returned, and `test` and `sanitize` fail."""
    seen: list[list[str]] = []

    def pretend(command: list[str], seconds: float) -> int:
        seen.append(command[2:])
        return 1 if command[2] in ("pytest", "tests.gpu.sanitize") else 0

    monkeypatch.setattr(bounded, "run", pretend)
    return seen


def test_a_step_that_fails_stops_no_other_and_the_tables_say_so(commands: list[list[str]]) -> None:
    assert run.run(list(run.STEPS), ["a.md", "b.md"]) == ["test", "sanitize"]
    assert [command[0] for command in commands] == [step.module[0] for step in run.STEPS]
    saved = ["--save", "a.md", "--save", "b.md"]
    assert commands[-1][1:] == [*saved, "--wrong", "failed: test, sanitize"]


def test_nothing_runs_on_a_library_that_was_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "run", lambda command, _: 1)
    assert run.run(list(run.STEPS), []) == ["build"]


def test_a_step_out_of_time_has_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bounded, "run", lambda *_: None)
    assert run.run([run.Step("time", 1, ("m",))], []) == ["time"]
    assert "--- time: ended, out of time after 0 s" in capsys.readouterr().out


def test_a_failure_is_the_end_of_make_gpu(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["run", "--only", "build", "test"])
    with pytest.raises(SystemExit, match="failed: test"):
        run.main()


def test_all_steps_together_end_in_ten_minutes_whatever_happens() -> None:
    assert sum(step.seconds for step in run.STEPS) < 600


def test_the_tools_end_before_their_step_is_ended() -> None:
    [step] = [step for step in run.STEPS if step.name == "sanitize"]
    assert step.seconds > sanitize.ALL_TOOLS


CLEAN = f"========= COMPUTE-SANITIZER\n{RAN}\n========= ERROR SUMMARY: 0 errors\n"
NO_RACE = f"{RAN}\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
WARNED = f"{RAN}\n========= RACECHECK SUMMARY: 2 hazards displayed (0 errors, 2 warnings)\n"
RACE = f"{RAN}\n========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n"
INVALID = f"========= Invalid __global__ read of size 16 bytes\n{RAN}\nERROR SUMMARY: 7 errors\n"
REFUSED = "========= COMPUTE-SANITIZER\n========= Error: Device not supported\n"
NOTHING_RAN = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
FAILED = "llama_cli.errors.LlamaError: the attention kernel failed: bad (error 700)\n"


@pytest.mark.parametrize(
    ("output", "verdict"),
    [
        (CLEAN, (True, "clean")),
        (NO_RACE, (True, "clean")),
        (WARNED, (True, "clean, 2 warnings")),
        (RACE, (False, "1 errors")),
        (INVALID, (False, "7 errors")),
        (REFUSED, (True, "not available: Error: Device not supported")),
        (NOTHING_RAN, (True, "not available: ERROR SUMMARY: 0 errors")),
        ("", (True, "not available: it said nothing")),
        (FAILED + NOTHING_RAN, (False, "the kernel failed")),
    ],
)
def test_a_tool_is_believed_only_when_all_variants_ran(
    output: str, verdict: tuple[bool, str]
) -> None:
    assert sanitize.judge(output) == verdict


def test_a_tool_that_runs_out_of_time_is_said_and_is_no_error() -> None:
    assert sanitize.judge("=====\n", in_time=False)[0]
    assert "not finished" in sanitize.judge("", in_time=False)[1]
    assert sanitize.judge(RACE, in_time=False) == (False, "1 errors")


def tool(folder: Path, words: str) -> Path:
    path = folder / "bin" / "compute-sanitizer"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{words}\nEND\n")
    path.chmod(0o755)
    return path


def test_every_tool_has_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool(tmp_path, CLEAN)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    sanitize.main()
    said = capsys.readouterr().out
    assert said.splitlines() == [f"{name}: clean [0 s]" for name in sanitize.TOOLS]


def test_an_error_is_shown_and_fails_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool(tmp_path, INVALID)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(SystemExit):
        sanitize.main()
    said = capsys.readouterr().out
    assert "memcheck: 7 errors [0 s]\n  ========= Invalid __global__ read of size 16" in said


def test_no_sanitizer_is_said_and_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sanitize, "find", lambda: None)
    sanitize.main()
    assert capsys.readouterr().out.startswith("compute-sanitizer: not available")


def test_a_machine_without_anything_still_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    assert machine.parts()[0]
    assert machine.heading("attention").startswith("## 20")


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that there is a GPU and that this is docs/benchmarks.md."""
    monkeypatch.setattr(time_attention, "PAGE", tmp_path / "benchmarks.md")
    monkeypatch.setattr(time_attention.library, "available", lambda _: None)
    monkeypatch.setattr(time_attention.kernel_times, "table", lambda _: iter(["| kernels |"]))
    monkeypatch.setattr(time_attention, "memory", lambda *_: {"ours": 1})
    peaks = {Shape(1, 1, 4, 64): 700.0}
    measured = time_attention.Measured([], peaks, 0.01)
    monkeypatch.setattr(time_attention, "measure", lambda *_: measured)
    return tmp_path / "benchmarks.md"


def timed(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["time_attention", *arguments])
    time_attention.main()


def test_the_report_is_added_to_the_page_and_to_what_is_named(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = page.with_name("more.md")
    timed("--save", str(more), monkeypatch=monkeypatch)
    assert page.read_text() == more.read_text()
    assert "Matrix peak: 700 to 700 TFLOP/s" in page.read_text()


def test_times_of_a_wrong_kernel_are_marked_and_not_published(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = page.with_name("more.md")
    timed("--save", str(more), "--wrong", "failed: test", monkeypatch=monkeypatch)
    assert "**The kernel is wrong (failed: test): its times mean nothing.**" in more.read_text()
    assert not page.exists()


def test_what_was_measured_before_a_failure_is_kept_and_not_published(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no profiler")

    monkeypatch.setattr(time_attention.kernel_times, "table", fail)
    more = page.with_name("more.md")
    with pytest.raises(RuntimeError, match="no profiler"):
        timed("--save", str(more), monkeypatch=monkeypatch)
    assert "Matrix peak" in more.read_text()
    assert not page.exists()


def test_without_a_gpu_nothing_is_timed(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_attention.library, "available", lambda _: "is not built")
    with pytest.raises(SystemExit, match="nothing to time: the cuda kernel is not built"):
        timed(monkeypatch=monkeypatch)

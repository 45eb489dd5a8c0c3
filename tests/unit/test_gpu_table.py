"""What `make gpu` makes of measured times, on invented ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gpu import clock, kernel_times, table, time_attention
from tests.gpu.kernel_times import Multiprocessor
from tests.gpu.table import ATOMICS, EFFICIENT, FLASH, OURS, Shape, Target, Timing

SHAPE = Shape(16, 16, 1_024, 128)
FORWARD = 4 * 1_024**2 * 128 * 16 * 16 / 2  # floating-point operations, halved for the mask


def timing(name: str, forward: float, backward: float, shape: Shape = SHAPE) -> Timing:
    return Timing(name, shape, forward, backward)


def test_a_rate_is_operations_over_time() -> None:
    ours = timing(OURS, 0.5, 1.0)
    assert ours.rate("forward") == pytest.approx(FORWARD / 0.5e-3 / 1e12)
    assert ours.rate("backward") == pytest.approx(2.5 * FORWARD / 1e-3 / 1e12)
    assert ours.rate("both") == pytest.approx(3.5 * FORWARD / 1.5e-3 / 1e12)


def test_a_row_has_rates_and_shares_of_flash_and_of_the_peak() -> None:
    timings = [timing(ATOMICS, 0.5, 1.25), timing(FLASH, 0.4, 0.5)]
    assert [*table.rates(timings, {SHAPE: 550})][2:] == [
        f"| 128 | 1,024 | {ATOMICS} | 137 / 137 / 137 | 0.80 / 0.40 / 0.51 | 0.25 / 0.25 / 0.25 |",
        "| 128 | 1,024 | sdpa flash | 172 / 344 / 267 | 1.00 / 1.00 / 1.00 | 0.31 / 0.62 / 0.49 |",
    ]


def test_an_attention_that_did_not_run_says_why_in_its_row() -> None:
    timings = [timing(OURS, 1, 1), Timing(FLASH, SHAPE, trouble="No available kernel")]
    rows = [*table.rates(timings, {})][2:]
    assert rows[1] == "| 128 | 1,024 | sdpa flash | No available kernel |  |  |"
    assert rows[0].endswith("|  |  |")  # no flash to share with, no peak


def test_every_row_has_as_many_cells_as_its_head() -> None:
    timings = [timing(OURS, 1, 1), Timing(FLASH, SHAPE, trouble="none")]
    whole = [*table.rates(timings, {SHAPE: 1})], [*table.verdict(timings)]
    for lines in (*whole, [*table.memory({OURS: 5}, SHAPE)]):
        assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize(("milliseconds", "verdict"), [(1.25, "reached"), (1.26, "not reached")])
def test_a_target_is_reached_at_its_number_and_not_below(milliseconds, verdict) -> None:
    timings = [timing(OURS, milliseconds, 9), timing(FLASH, 1, 9)]
    [_, _, row] = table.verdict(timings, [Target("forward", OURS, FLASH, 0.8)])
    assert row.endswith(f"| {1 / milliseconds:.2f} | {verdict} |")


def test_the_slowest_length_decides() -> None:
    longer = Shape(8, 16, 2_048, 128)
    timings = [timing(OURS, 1, 1), timing(FLASH, 1, 1)]
    timings += [timing(OURS, 3, 1, longer), timing(FLASH, 1, 1, longer)]
    [_, _, row] = table.verdict(timings, [Target("forward", OURS, FLASH, 0.8)])
    assert row == f"| forward: {OURS} over {FLASH} | 128 | 0.8 | 1.00 | 0.33 | not reached |"


def test_a_length_that_was_not_measured_leaves_a_target_open() -> None:
    longer = Shape(8, 16, 2_048, 128)
    timings = [timing(OURS, 1, 1), timing(FLASH, 1, 1), timing(OURS, 1, 1, longer)]
    [_, _, row] = table.verdict(timings, [Target("forward", OURS, FLASH, 0.8)])
    assert row.endswith("| 1.00 |  | not measured |")


def test_both_passes_are_judged_by_the_sum_of_their_times() -> None:
    timings = [timing(ATOMICS, 1, 3), timing(EFFICIENT, 2, 4)]
    [_, _, row] = table.verdict(timings, [Target("both", ATOMICS, EFFICIENT, 1.3)])
    assert "| 1.50 | reached |" in row


def test_the_targets_are_those_agreed_on() -> None:
    assert {(t.part, t.ours, t.theirs): t.least for t in table.TARGETS} == {
        ("forward", OURS, FLASH): 0.8,
        ("backward", ATOMICS, FLASH): 0.65,
        ("backward", OURS, FLASH): 0.5,
        ("both", OURS, EFFICIENT): 1.3,
        ("both", ATOMICS, EFFICIENT): 1.3,
    }


def test_a_section_is_added_after_one_empty_line(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("# Benchmarks\n\nwords\n")
    table.append(page, "## one\n\n| a |\n")
    table.append(page, "## two")
    assert page.read_text() == "# Benchmarks\n\nwords\n\n## one\n\n| a |\n\n## two\n"


def test_a_page_that_is_not_there_is_made(tmp_path: Path) -> None:
    table.append(tmp_path / "new.md", "## one")
    assert (tmp_path / "new.md").read_text() == "## one\n"


def test_calls_take_turns_and_warm_up_rounds_do_not_count() -> None:
    order: list[str] = []
    now = iter(range(10_000))

    def queue(call: Callable[[], object]) -> Callable[[], float]:
        call()
        started = next(now)
        return lambda: float(started)

    calls = {name: lambda turn, name=name: order.append(f"{name}{turn}") for name in "ab"}
    times = clock.in_turns(calls, queue=queue, wait=lambda: None)
    assert order[:4] == ["a0", "b0", "a1", "b1"]
    rounds = range(clock.WARM_UPS, clock.WARM_UPS + clock.RUNS)
    assert times == {"a": [2.0 * x for x in rounds], "b": [2.0 * x + 1 for x in rounds]}


def test_a_shape_is_timed_part_by_part_beside_a_matrix_product(monkeypatch) -> None:
    monkeypatch.setattr(time_attention, "MATRIX", 8)
    shape = Shape(1, 1, 4, 64)

    def in_turns(calls: dict[str, clock.Call]) -> dict[str, list[float]]:
        for call in calls.values():
            call(0)
        return {name: [float(i), i + 1.0] for i, name in enumerate(calls)}

    def attend(q, k, v):
        return q * k * v

    def refuse(q, k, v):
        raise RuntimeError("no kernel\nand more")

    attends = {"one": attend, "two": refuse}
    found = time_attention.measure([shape], attends, device="cpu", in_turns=in_turns)
    assert found.timings == [
        Timing("one", shape, 0.5, 1.5),
        Timing("two", shape, trouble="no kernel"),
    ]
    assert found.peaks == {shape: pytest.approx(2 * 8**3 / 2.5 / 1e9)}


def event(name: str, microseconds: float, ts: int = 0) -> kernel_times.Event:
    """Return what a trace of PyTorch's profiler has for a kernel."""
    told = {"registers per thread": 200, "shared memory": 81_920}
    told |= {"grid": [32, 16, 4], "block": [128, 1, 1]}
    return {"cat": "kernel", "name": name, "ts": ts, "dur": microseconds, "args": told}


def test_a_kernel_is_named_timed_and_weighed() -> None:
    name = "void forward<Bf16, 128>(Problem)"
    events = [event(name, 1_000 * x, x) for x in (1, 9, 2)] + [{"ph": "M", "name": "no kernel"}]
    [row] = kernel_times.rows(OURS, SHAPE, events, Multiprocessor(228 * 1024), 100)
    rate = FORWARD / 2e-3 / 1e12  # the median is 2 ms, and forward makes two products
    assert row == (
        f"| 128 | ours, deterministic | `forward` | 2.000 | {rate:.0f} | {rate / 100:.2f} "
        "| 200 | 80 | 2,048 x 128 | 2 |"
    )


def test_a_kernel_of_unknown_work_has_no_rate() -> None:
    [row] = kernel_times.rows(OURS, SHAPE, [event("fill", 10)], Multiprocessor(228 * 1024), 100)
    assert row.startswith("| 128 | ours, deterministic | `fill` | 0.010 |  |  | 200 |")


def test_a_trace_without_kernels_is_said() -> None:
    [row] = kernel_times.rows(OURS, SHAPE, [], Multiprocessor(228 * 1024), 100)
    assert "the profiler saw none" in row
    assert row.count("|") == 11


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "blocks"),
    [
        (128, 255, 0, 2),  # 65,536 / (4 warps x 32 x 256)
        (128, 128, 0, 4),
        (256, 255, 0, 1),
        (128, 32, 113 * 1024, 2),  # 228 KB / 114
        (128, 32, 114 * 1024, 1),
        (32, 16, 0, 32),
        (1024, 32, 0, 2),
    ],
)
def test_blocks_at_a_time_are_what_fits(threads, registers, shared, blocks) -> None:
    assert Multiprocessor(228 * 1024).resident(threads, registers, shared) == blocks

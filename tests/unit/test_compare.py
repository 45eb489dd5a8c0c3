"""Two runs compared row by row: what is found, what is not, and how it is told."""

import json

import pytest
from click.testing import CliRunner

from llama_cli.cli import main
from llama_cli.errors import LlamaError
from llama_cli.evaluation.compare import apart, compare, held
from llama_cli.evaluation.compare_words import describe
from llama_cli.evaluation.request import Graded
from llama_cli.evaluation.statistics import mcnemar, wilson
from tests.shell import on_terminal


def run_of(values, task="piqa", metric="accuracy"):
    return held([Graded(task, str(n), {metric: value}) for n, value in enumerate(values)], "A")


def flipped(count, right, gained, lost):
    """Make a run and another in which some rows flip each way."""
    first = [1] * right + [0] * (count - right)
    second = [0] * lost + [1] * (right - lost + gained) + [0] * (count - right - gained)
    return run_of(first), run_of(second)


# -- what is found --


def test_sixty_flips_one_way_and_twenty_the_other_are_a_difference():
    (found,) = compare(*flipped(2000, 1500, 60, 20))
    assert (found.n, found.gained, found.lost, found.verdict) == (2000, 60, 20, "higher")
    assert (found.a, found.b, found.difference) == (75.0, 77.0, pytest.approx(2.0))
    assert found.p == mcnemar(60, 20) < 1e-5
    assert found.difference_interval.low > 1


def test_fewer_right_answers_are_lower():
    (found,) = compare(*flipped(2000, 1500, 20, 60))
    assert (found.verdict, found.difference) == ("lower", pytest.approx(-2.0))


def test_a_run_and_itself_do_not_differ():
    rows, _ = flipped(2000, 1500, 60, 20)
    (found,) = compare(rows, rows)
    assert (found.verdict, found.p, found.gained, found.lost) == ("no difference shown", 1.0, 0, 0)
    assert found.difference_interval == (0, 0)


def test_the_two_figures_apart_would_not_have_shown_it():
    (found,) = compare(*flipped(2000, 1500, 60, 20))
    assert found.a_interval == pytest.approx([100 * end for end in wilson(1500, 2000)])
    assert found.a_interval.high > found.b_interval.low
    assert found.smallest == pytest.approx(1.25, abs=0.01)


def test_flips_that_chance_makes_show_no_difference():
    (found,) = compare(*flipped(2000, 1500, 44, 36))
    assert found.verdict == "no difference shown"
    assert found.difference_interval.low < 0 < found.difference_interval.high
    assert found.p == mcnemar(44, 36)


def test_values_that_are_no_marks_are_compared_by_the_bootstrap_in_their_unit():
    first = [0.01 * (n % 50) for n in range(300)]
    a, b = run_of(first), run_of([value + 0.001 * (n % 3) for n, value in enumerate(first)])
    (found,) = compare(a, b)
    assert (found.test, found.unit, found.verdict) == ("bootstrap", "value", "higher")
    assert found.difference == pytest.approx(0.001)
    assert (found.gained, found.lost) == (200, 0)
    assert compare(a, b) == compare(a, b)
    assert compare(a, b, seed=1) != compare(a, b)


def test_verdicts_take_account_of_how_many_comparisons_are_made():
    rows = [flipped(500, 250, 16, 5)]  # p is 0.027 alone
    assert compare(*rows[0])[0].verdict == "higher"
    both = [{**run, **{("other", key): row for (_, key), row in run.items()}} for run in rows[0]]
    found = compare(both[0], both[1])
    assert [each.verdict for each in found] == ["no difference shown"] * 2
    assert [each.p_corrected for each in found] == [2 * each.p for each in found]


def test_margins_do_not_make_a_tasks_difference_harder_to_show():
    a, b = flipped(500, 250, 16, 5)
    more = [
        held(
            [Graded("piqa", key[1], {**row.values, "margin": 0.5}) for key, row in run.items()], ""
        )
        for run in (a, b)
    ]
    found = compare(*more)
    assert [(each.metric, each.verdict) for each in found] == [
        ("accuracy", "higher"),
        ("margin", "no difference shown"),
    ]


# -- pairs --


def test_rows_are_paired_by_task_and_id_and_not_by_place():
    rows = [Graded("piqa", str(n), {"accuracy": n % 2}) for n in range(10)]
    (found,) = compare(held(rows, "A"), held(reversed(rows), "B"))
    assert (found.n, found.gained, found.lost) == (10, 0, 0)


def test_rows_in_one_run_alone_are_counted_and_not_compared():
    a, b = run_of([1, 1, 0]), run_of([1, 0, 0, 1, 1])
    (found,) = compare(a, b)
    unlike = apart(a, b)
    assert (found.n, found.b) == (3, pytest.approx(100 / 3))
    assert (unlike.only_a, unlike.only_b) == ({}, {"piqa": 2})
    assert "in B and not in A, so not compared: piqa 2" in describe([found], unlike)


def test_each_metric_of_each_task_is_compared():
    a = held([Graded(t, "0", {"x": 1, "y": 0}) for t in ("nq", "boolq")], "A")
    found = [(each.task, each.metric) for each in compare(a, a)]
    assert found == [("nq", "x"), ("nq", "y"), ("boolq", "x"), ("boolq", "y")]


def test_runs_of_other_tasks_have_nothing_to_compare():
    with pytest.raises(LlamaError, match="no row of A is in B"):
        compare(run_of([1]), run_of([1], task="nq"))


def test_a_row_that_comes_twice_is_named():
    with pytest.raises(LlamaError, match=r"b\.jsonl: row '7' of nq comes twice"):
        held([Graded("nq", "7", {}), Graded("nq", "7", {})], "b.jsonl")


def test_texts_without_a_byte_have_no_rate():
    empty = held([Graded("bits_per_byte", "0", {"bits": 0.0, "bytes": 0.0})], "a.jsonl")
    with pytest.raises(LlamaError, match="no text to compare"):
        compare(empty, empty)


def test_a_run_without_rows_is_an_error():
    with pytest.raises(LlamaError, match=r"b\.jsonl: no rows"):
        held([], "b.jsonl")


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"task": "nq", "values": {}}, "a graded row has a task, an id and values"),
        ({"task": "nq", "id": "0", "values": {}, "meta": {"groups": "STEM"}}, "'groups' is a list"),
        ({"task": "nq", "id": "0", "values": {}, "meta": {"bos": 1}}, "'bos' is true, false or"),
        ({"task": "nq", "id": [0], "values": {}}, r"'id' is a text, not \[0\]"),
        ({"task": "nq", "id": "0", "values": {}, "meta": 1}, "'meta' is an object, not 1"),
        (
            {"task": "nq", "id": "0", "values": {"x": "1"}},
            "'values' is an object of numbers, not .*'1'",
        ),
        (
            {"task": "nq", "id": "0", "values": {"x": None}},
            "'values' is an object of numbers, not .*None",
        ),
        ({"text": "a document"}, "a graded row has no field 'text', but task, id, values"),
    ],
)
def test_a_line_that_is_no_graded_row_says_why(row, what):
    with pytest.raises(ValueError, match=what):
        Graded.from_json(json.dumps(row).encode())


def test_rows_that_were_asked_in_two_ways_are_counted_and_told():
    a = held([Graded("nq", str(n), {"x": 1}, meta={"prompt": "0f"}) for n in range(3)], "A")
    b = held(
        [Graded("nq", str(n), {"x": 1}, meta={"prompt": "f" * (n + 1)}) for n in range(3)], "B"
    )
    bare = held([Graded("nq", str(n), {"x": 1}) for n in range(3)], "B")
    assert (apart(a, b).asked, apart(a, a).asked, apart(a, bare).asked) == ({"nq": 3}, {}, {})
    assert "asked in two ways, yet compared: nq 3" in describe(compare(a, b), apart(a, b))


# -- texts --


def texts(bits, sizes=(100, 300, 50, 150) * 10):
    rows = zip(bits, sizes, strict=True)
    return held(
        [
            Graded("own", str(n), {"bits": b, "bytes": s, "tokens": 9})
            for n, (b, s) in enumerate(rows)
        ],
        "A",
    )


def test_texts_are_compared_by_the_ratio_of_their_sums():
    sizes = [100, 300, 50, 150] * 10
    first = [2.0 * size + n % 7 for n, size in enumerate(sizes)]
    second = [1.9 * size + n % 5 for n, size in enumerate(sizes)]
    (rate,) = compare(texts(first), texts(second))
    assert rate.metric == "bits_per_byte"
    assert rate.a == pytest.approx(sum(first) / sum(sizes))
    assert rate.b == pytest.approx(sum(second) / sum(sizes))
    assert (rate.unit, rate.verdict) == ("value", "lower")


def test_the_spread_of_a_rate_is_that_of_a_ratio_and_not_of_the_sizes_of_texts():
    sizes = [100, 300, 50, 150] * 10
    (rate,) = compare(texts([2.0 * size for size in sizes]), texts([2.0 * s for s in sizes]))
    assert rate.a_interval == pytest.approx((2.0, 2.0))
    assert rate.verdict == "no difference shown"


# -- words --


def test_the_table_and_the_words_below_it_say_what_was_found():
    a, b = flipped(2000, 1500, 60, 20)
    found = compare(a, b)
    lines = describe(found, apart(a, b), "one", "two").splitlines()
    assert lines[1].split("  ")[-1] == "1.3"
    assert "75.0 (73.1, 76.8)" in lines[1]
    assert "+2.0 (+1.1, +2.9)" in lines[1]
    assert lines[3] == "B is higher than A: piqa accuracy by 2.0"
    assert lines[4] == "A is one; B is two"
    assert lines[5] == "(low, high) is a 95% interval; p is of McNemar's exact test"


def test_what_was_not_found_is_said_with_what_would_have_been():
    a, b = flipped(2000, 1500, 44, 36)
    text = describe(compare(a, b), apart(a, b))
    assert "no difference shown: piqa accuracy (one of 1.3 would show)" in text
    assert "every row is the same: piqa accuracy\n" in describe(compare(a, a), apart(a, a))


def test_small_differences_have_the_digits_to_be_seen():
    a = run_of([0.5 + 0.001 * (n % 10) for n in range(400)])
    b = run_of([0.5 + 0.001 * (n % 10) + 0.0004 * (n % 2) for n in range(400)])
    line = describe(compare(a, b), apart(a, b)).splitlines()[1]
    assert "+0.000200 (" in line
    assert line.split()[-1] == "0.000028"  # 2.80158 x 0.0002 / sqrt(400)


# -- the command --


def write(path, values, **more):
    rows = [{"task": "piqa", "id": str(n), "values": {"accuracy": v}} for n, v in enumerate(values)]
    path.write_text("".join(json.dumps({**row, **more}) + "\n" for row in rows))
    return str(path)


def llama(*arguments, **more):
    return CliRunner().invoke(main, ["eval", "compare", *arguments], **more)


def test_comparisons_are_written_as_lines_and_a_table_is_shown(tmp_path):
    a, b = write(tmp_path / "a", [1] * 8, model="m"), write(tmp_path / "b", [1] + [0] * 8)
    done = llama(a, b, "-o", str(tmp_path / "c.jsonl"), "--report", str(tmp_path / "r.json"))
    assert (done.exit_code, done.stdout) == (0, "")
    found = json.loads((tmp_path / "c.jsonl").read_text())
    assert (found["gained"], found["lost"], found["verdict"]) == (0, 7, "lower")
    assert found["p"] == 2 / 2**7
    assert "B is lower than A: piqa accuracy by 87.5" in done.stderr
    assert "in B and not in A, so not compared: piqa 1" in done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["result"]["only_b"] == {"piqa": 1}


def test_on_a_terminal_only_the_table_is_shown(tmp_path):
    a = write(tmp_path / "a", [1, 0])
    code, shown = on_terminal(f"llama eval compare {a} {a}", tmp_path)
    assert code == 0
    assert "every row is the same: piqa accuracy" in shown
    assert '"task"' not in shown


def test_quiet_shows_no_table(tmp_path):
    a = write(tmp_path / "a", [1, 0])
    assert llama(a, a, "-q", "-o", str(tmp_path / "c")).stderr == ""


def test_both_runs_cannot_be_stdin():
    done = llama("-", "-")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "only one of A and B can be stdin" in done.stderr


def test_a_line_that_is_no_graded_row_ends_the_comparison_and_is_named(tmp_path):
    a = write(tmp_path / "a", [1, 0])
    (tmp_path / "b").write_text('{"task": "piqa", "id": "0", "values": {"accuracy": 1}}\n{"id"\n')
    done = llama(a, str(tmp_path / "b"), "-o", str(tmp_path / "c"))
    assert done.exit_code == 3
    assert f"{tmp_path}/b:2: not JSON: unexpected" in done.stderr
    assert not (tmp_path / "c").exists()


def test_the_word_has_settings_of_its_own(tmp_path, monkeypatch):
    a = write(tmp_path / "a", [1, 0])
    (tmp_path / "c.toml").write_text('[eval]\nlimit = 3\n["eval compare"]\nseed = 4\n')
    told = [a, a, "--show-config", "--config", str(tmp_path / "c.toml")]
    assert "seed = 4  # /" in llama(*told).stdout
    monkeypatch.setenv("LLAMA_EVAL_COMPARE_SEED", "7")
    assert "seed = 7  # environment" in llama(*told).stdout
    (tmp_path / "c.toml").write_text('["eval compare"]\nsead = 4\n')
    assert "unknown key 'sead' in [\"eval compare\"]" in llama(*told).stderr

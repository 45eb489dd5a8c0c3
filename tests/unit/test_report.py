"""Scores beside the paper: which cells, in which tables, how sure, and what differs."""

import json
import math

import pytest
from click.testing import CliRunner

from llama_cli.cli import main
from llama_cli.evaluation.beside import differences, interval, place
from llama_cli.evaluation.published import TITLES, published, same
from llama_cli.evaluation.report_picture import draw
from llama_cli.evaluation.report_tables import as_json, as_markdown, as_text, sections
from llama_cli.evaluation.statistics import wilson
from llama_cli.evaluation.tasks import TASKS
from llama_cli.records import Score
from tests.shell import SHARED


def score(task="piqa", value=79.3, rows=1838, *, metric="accuracy", stderr=None, **more):
    if stderr is None:
        stderr = math.sqrt(value * (100 - value) / rows)
    settings = {"shots": 0, "normalization": "characters", **more}
    return Score(task=task, metric=metric, value=value, stderr=stderr, rows=rows, **settings)


# -- the paper's figures --


@pytest.mark.data
def test_every_published_cell_is_that_of_the_transcription():
    source = SHARED / "paper" / "results.json"
    if not source.exists():
        pytest.skip("the transcription of the paper's tables is not beside the checkout")
    wanted = [
        (str(row["table"]), *(row[name] for name in ("benchmark", "setting", "metric")), *cell)
        for row in json.loads(source.read_text())["records"]
        for cell in [(row["model"], row["size"], row["value"])]
    ]
    ours = [
        (str(each.table), each.benchmark, each.setting, cell.model, cell.size, cell.value)
        for each in published()
        for cell in each.cells
    ]
    assert sorted(ours) == sorted((*row[:3], *row[4:]) for row in wanted)
    assert len(ours) == 867


def test_every_table_from_3_to_16_is_there():
    assert {each.table for each in published()} >= set(range(3, 17)) == set(TITLES)


def test_every_cell_of_one_thing_is_of_another_model():
    for each in published():
        names = [(cell.model, cell.size) for cell in each.cells]
        assert len(names) == len(set(names)), each.benchmark


def test_no_two_rows_of_one_table_measure_the_same():
    keys = [
        (each.table, each.task, each.group, each.metric, each.shots)
        for each in published()
        if each.task != "carbon"
    ]
    assert len(keys) == len(set(keys))


def test_the_averages_of_table_16_are_those_of_table_9():
    # the paper prints one model's average in two ways: Chinchilla's is 67.5 in one, 67.6 in other
    tables = {each.table: each for each in published() if (each.task, each.group) == ("mmlu", "")}
    ours = {cell.size: cell.value for cell in tables[16].cells if cell.model == "LLaMA"}
    assert ours == {c.size: c.value for c in tables[9].cells if c.model == "LLaMA"}


def test_a_score_finds_its_cells():
    (found,) = same(score("arc_easy"))
    assert (found.table, found.benchmark) == (3, "ARC-easy")
    assert [(c.model, c.size, c.value) for c in found.cells[-2:]] == [
        ("LLaMA", "33B", 80.0),
        ("LLaMA", "65B", 78.9),
    ]


def test_a_figure_that_two_tables_print_is_in_both():
    assert [each.table for each in same(score("mmlu", shots=5))] == [9, 10, 16]


def test_shots_part_the_figures_of_a_task():
    assert [c.value for c in same(score("triviaqa", metric="exact_match", shots=1))[0].cells] == [
        *(53.4, 60.5, 67.9, 71.6)
    ]
    assert same(score("triviaqa", metric="exact_match", shots=2)) == []


# -- how sure --


def test_right_and_wrong_rows_have_wilsons_interval():
    found = interval(score(value=75.0, rows=400))
    assert found == pytest.approx([100 * end for end in wilson(300, 400)])


def test_a_fraction_has_it_in_its_own_unit():
    (entry,) = place([score("truthfulqa", 0.4, 800, metric="truthful", stderr=0.4 * 0.6 / 800)])
    assert entry.interval == pytest.approx((0.4 - 1.96 * 0.0003, 0.4 + 1.96 * 0.0003), abs=1e-6)
    error = math.sqrt(0.4 * 0.6 / 800)
    (entry,) = place([score("truthfulqa", 0.4, 800, metric="truthful", stderr=error)])
    assert entry.interval == pytest.approx(tuple(wilson(320, 800)))


def test_another_error_gives_the_normal_interval():
    found = interval(score(value=50.0, rows=400, stderr=1.0))
    assert found == pytest.approx((50 - 1.959964, 50 + 1.959964))


def test_a_score_without_an_error_has_no_interval():
    bare = Score("bits_per_byte", "bits_per_byte", 1.2, None, 0, "bytes")
    (entry,) = place([bare])
    assert (entry.interval, entry.published) == (None, None)


def test_a_cell_is_within_up_to_its_rounding():
    (entry,) = place([score("piqa", 80.0, stderr=0.1)])  # 79.80 to 80.20
    within = {cell.size: entry.within(cell) for cell in entry.published.cells if "LL" in cell.model}
    assert within == {"7B": True, "13B": True, "33B": False, "65B": False}
    (entry,) = place([score("piqa", 80.0, stderr=0.085)])  # 79.83 to 80.17; 79.8 may be 79.849
    assert entry.within(next(cell for cell in entry.published.cells if cell.size == "7B"))


def test_what_the_rows_can_show_is_millers_multiple_of_the_error():
    (entry,) = place([score(value=50.0, rows=400)])  # an error of 2.5, times 2.80158 times sqrt(2)
    assert entry.smallest == pytest.approx(9.905, abs=0.001)
    (entry,) = place([Score("bits_per_byte", "bits_per_byte", 1.2, None, 0, "bytes")])
    assert entry.smallest is None


# -- what differs --


def test_fewer_rows_than_the_benchmark_has_are_said():
    assert differences(score(rows=919)) == ("919 rows, where there are 1,838",)
    assert differences(score(rows=1838)) == ()


def test_what_the_run_noted_is_said():
    protocol = {"bos": False, "truncated": 3, "fewer_shots": 2, "cut": 5, "note": "our prompt"}
    said = differences(score("mmlu", rows=14042, shots=4, protocol=protocol))
    assert said == (
        "4 shots, where the paper has 5",
        "without the begin mark",
        "worked examples are cut from the test rows (5)",
        "3 prompts lost their beginning to fit the context",
        "2 rows had fewer shots, to fit the context",
        "our prompt",
    )


# -- tables --


def test_tables_come_in_the_papers_order_and_what_it_has_not_last():
    bits = Score("bits_per_byte", "bits_per_byte", 1.2, 0.01, 0, "bytes")
    scores = [bits, score("mmlu", shots=5), score("piqa"), score("boolq")]
    found = sections(place(scores))
    assert [each.table for each in found] == [3, 9, 10, 16, None]
    assert [row[0] for row in found[0].rows] == ["PIQA", "BoolQ"]


def test_llama_comes_before_the_other_models():
    (section,) = sections(place([score("piqa")]))
    heads = [" ".join(head) for head in section.columns]
    assert heads[2:10] == [
        "ours",
        "95%",
        "shows",
        *(f"LLaMA {s}B" for s in (7, 13, 33, 65)),
        "GPT-3 175B",
    ]


def test_the_text_has_our_value_its_interval_and_marked_cells():
    lines = as_text(place([score("piqa", 79.3, 919)])).splitlines()
    assert lines[0] == "Table 3: common sense"
    assert lines[4].split() == [
        *("PIQA", "accuracy", "79.3", "76.6", "to", "81.8", "5.3"),
        *("≈79.8", "≈80.1", "82.3", "82.8", "≈81.0", "≈81.8", "≈81.8", "≈80.5", "≈81.4", "82.3"),
    ]
    assert lines[6].startswith("≈ lies within our 95% interval; shows is how far")
    assert lines[7].endswith(": 919 rows, where there are 1,838")


def test_models_that_are_reported_together_are_named_in_the_rows():
    text = as_text(place([score(model="runs/a"), score(value=60.0, model="runs/[b]")]))
    assert "runs/a" in text.splitlines()[4]
    assert "runs/[b]" in text.splitlines()[5]


def test_what_several_models_have_of_one_figure_stands_together():
    scores = [score(task, model=model) for model in "ab" for task in ("piqa", "boolq")]
    (section,) = sections(place(scores))
    assert [row[0] + row[2] for row in section.rows] == ["PIQAa", "PIQAb", "BoolQa", "BoolQb"]


def test_shots_are_named_where_the_paper_varies_them():
    found = as_text(place([score("nq_open", 20.0, metric="exact_match", shots=64)]))
    assert "NaturalQuestions 64-shot" in found


def test_markdown_has_a_table_that_github_reads():
    lines = as_markdown(place([score("nq_open", 20.0, metric="exact_match", shots=5)])).splitlines()
    assert lines[2] == "## Table 4: NaturalQuestions"
    assert lines[4].startswith("| task | metric | ours | 95% | shows | LLaMA 7B |")
    assert lines[6].startswith("| NaturalQuestions 5-shot | exact\\_match | 20.0 |")
    assert len({line.count("|") for line in lines[4:7]}) == 1
    assert lines[-1].startswith("- nq\\_open (1,838 rows, 5 shots, by characters): ")


def test_json_has_every_cell_with_its_difference():
    (found,) = as_json(place([score("piqa", 79.3, 919)]))["scores"]
    assert (found["table"], found["benchmark"], found["rows"]) == (3, "PIQA", 919)
    cell = next(each for each in found["cells"] if each["size"] == "65B")
    assert cell == {
        "model": "LLaMA",
        "size": "65B",
        "value": 82.8,
        "difference": pytest.approx(-3.5),
        "within": False,
    }


def test_how_a_task_was_asked_is_told_once_for_all_its_metrics_and_groups():
    protocol = {"split": "test", "prompt": "0f", "seed": 3, "samples": 200, "tier": "namespaces"}
    scores = [
        score("mmlu", shots=5, rows=14042, model="m", protocol=protocol, group=group)
        for group in ("", "STEM", "anatomy")
    ]
    scores.append(score("mmlu", metric="margin", shots=5, rows=14042, model="m", protocol=protocol))
    lines = [line for line in as_text(place(scores)).splitlines() if line.startswith("mmlu (")]
    assert lines == [
        "mmlu (m, 14,042 rows, test, 5 shots, by characters, prompt 0f, seed 3, samples 200, "
        "tier namespaces): nothing known to differ"
    ]


# -- the picture and the command --


def test_the_picture_has_a_line_for_each_score_and_names_every_model(monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda s, *a, **k: drawn.append(s) or save(s, *a, **k))
    content = draw(place([score("piqa"), score("boolq"), score("mmlu", shots=5)]), dpi=40)
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    first = drawn[0].axes[0]
    assert [label.get_text() for label in first.get_yticklabels()] == ["PIQA", "BoolQ"]
    assert first.get_title(loc="left") == "Table 3: common sense, percent"
    named = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert named[:5] == ["ours, 95%", *(f"LLaMA {size}B" for size in (7, 13, 33, 65))]
    assert {"Gopher 280B", "GPT-NeoX 20B", "LLaMA-I 65B"} < set(named)
    assert 79.3 in [line.get_xdata()[0] for line in first.lines]


def write(path, *scores):
    path.write_bytes(b"".join(each.to_json() + b"\n" for each in scores))
    return str(path)


def llama(*arguments):
    return CliRunner().invoke(main, ["eval", "report", *map(str, arguments)])


def test_the_command_writes_all_it_is_asked_for(tmp_path):
    one = write(tmp_path / "one.jsonl", score("piqa"))
    two = write(tmp_path / "two.jsonl", score("boolq", 70.0))
    files = [tmp_path / name for name in ("r.txt", "r.md", "r.json", "r.png")]
    options = zip(("-o", "--markdown", "--json", "--picture"), files, strict=True)
    done = llama(one, two, *(word for pair in options for word in pair))
    assert (done.exit_code, done.stdout) == (0, "")
    text, markdown, found, picture = (path.read_bytes() for path in files)
    assert text.startswith(b"Table 3: common sense\n")
    assert markdown.startswith(b"# Scores beside the paper\n")
    assert [each["task"] for each in json.loads(found)["scores"]] == ["piqa", "boolq"]
    assert picture.startswith(b"\x89PNG")


def test_nothing_is_written_where_there_is_nothing_to_draw(tmp_path):
    bare = write(tmp_path / "s", Score("bits_per_byte", "bits_per_byte", 1.2, 0.1, 0, "bytes"))
    done = llama(bare, "--markdown", tmp_path / "r.md", "--picture", tmp_path / "r.png")
    assert done.exit_code == 1
    assert "llama eval report: none of these scores is in the paper" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


def test_no_scores_are_an_error(tmp_path):
    done = llama(write(tmp_path / "s"))
    assert done.exit_code == 1
    assert "no scores to report" in done.stderr


def test_a_line_that_is_no_score_is_named(tmp_path):
    (tmp_path / "s").write_text('{"task": "piqa"}\n')
    done = llama(tmp_path / "s")
    assert done.exit_code == 3
    assert f"{tmp_path}/s:1: no score: " in done.stderr


def test_a_picture_of_another_kind_is_refused(tmp_path):
    done = llama(write(tmp_path / "s", score()), "--picture", tmp_path / "r.jpg")
    assert done.exit_code == 2
    assert "a picture is written as .png, not .jpg" in done.stderr


def test_every_figure_that_a_task_reports_is_llamas_in_the_paper():
    compared = 0
    for task in TASKS.values():
        groups = [("", task.metric), *((group, task.metric) for group in task.by_group)]
        for group, metric in [*groups, *(("", metric) for metric in task.by_metric)]:
            for shots in task.by_shots or (task.shots,):
                told = task.figures(metric, group, shots)
                wanted = Score(task.name, metric, 0.0, None, shots, "", group=group)
                found = {
                    f"{cell.size}{cell.model.removeprefix('LLaMA')}": cell.value
                    for each in same(wanted)
                    for cell in each.cells
                    if cell.model in {"LLaMA", "LLaMA-I"}
                }
                assert set(told.items()) <= set(found.items()), (task.name, group, metric, shots)
                compared += len(told)
    assert compared > 120

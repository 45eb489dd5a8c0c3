"""From rows to requests and marks: official files, worked examples, grading again."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from llama_cli.errors import DataError, LlamaError, NotReadyError, UsageError
from llama_cli.evaluation.catalogue import catalogue
from llama_cli.evaluation.data import Data, locate
from llama_cli.evaluation.grade import grade
from llama_cli.evaluation.render import Fit, Setting, render
from llama_cli.evaluation.request import Graded, Request, Response
from llama_cli.evaluation.rows import Files, read_table
from llama_cli.evaluation.task import Tools
from llama_cli.evaluation.tasks import TASKS
from llama_cli.records import Document
from tests.benchmarks import FILES, completed, knows, mark, requests, write_benchmarks
from tests.shell import ROOT

PIQA, BITS = TASKS["piqa"], TASKS["bits_per_byte"]


@pytest.fixture
def own(tmp_path) -> Path:
    return write_benchmarks(tmp_path)


# -- official files --


@pytest.mark.parametrize("place", ["", "piqa"])
def test_files_are_found_in_the_directory_or_the_one_of_the_task(own, place):
    found = locate("piqa", PIQA.files, [own / place])
    assert [paths[0].name for paths in found] == ["valid.jsonl", "valid-labels.lst"]


def test_a_directory_with_half_the_files_is_none(own):
    (own / "piqa/valid-labels.lst").unlink()
    with pytest.raises(NotReadyError, match=r"piqa needs valid\.jsonl and valid-labels\.lst"):
        locate("piqa", PIQA.files, [own])


def test_the_first_of_several_names_is_taken(tmp_path):
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_text("{}\n")
    found = Files("none", ("x.jsonl or b.jsonl or a.jsonl",)).find([tmp_path])
    assert [path.name for path in found[0]] == ["b.jsonl"]


@pytest.mark.parametrize("labels", ["0\n", "0\n1\n0\n", "0\n2\n", "0\nx\n"])
def test_labels_that_do_not_match_the_rows_are_an_error(own, labels):
    (own / "piqa/valid-labels.lst").write_text(labels)
    with pytest.raises(DataError, match=r"valid-labels\.lst:\d: a label"):
        requests(own, "piqa")


@pytest.mark.parametrize(("line", "what"), [("{oops", "not JSON"), ("[1]", "a JSON object")])
def test_a_broken_line_is_an_error_and_no_shorter_benchmark(own, line, what):
    path = own / "piqa/valid.jsonl"
    path.write_text(line + "\n" + path.read_text())
    with pytest.raises(DataError, match=rf"valid\.jsonl:1: {what}"):
        requests(own, "piqa")


CUT = [name for name in FILES if "labels" not in name and "templates" not in name]


@pytest.mark.parametrize("name", CUT)
def test_a_file_cut_in_the_middle_of_a_row_is_told_with_its_line(own, name):
    folder = name.split("/")[0]
    task = next(t for t in TASKS.values() if t.files and t.files.directory == folder)
    if "high" in name:
        task = TASKS["race_high"]
    path = own / name
    path.write_bytes(path.read_bytes()[: -40 if folder == "winogender" else -9])
    used = "train" in name
    with pytest.raises(LlamaError, match=r":\d+: ") as told:
        requests(own, task.name, shots=9 if used and task.name == "gsm8k" else 1 if used else None)
    assert "\n" not in str(told.value)


def test_a_cut_archive_is_told(own):
    path = own / "humaneval/HumanEval.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LlamaError, match="ends early"):
        requests(own, "humaneval")


@pytest.mark.parametrize(("task", "file", "was", "now", "what"), [
    ("arc_easy", "arc_easy/ARC-Easy-Test.jsonl", '"answerKey": "5"', '"answerKey": "6"',
     "ARC-Easy-Test.jsonl:2: arc_easy: .*label 6 is outside its options 1 2 3 4 5"),
    ("winogrande", "winogrande/dev.jsonl", '"answer": "2"', '"answer": "3"',
     "dev.jsonl:2: winogrande: .*label 2 is outside its 2 options"),
    ("mmlu", "mmlu/test/anatomy_test.csv", ",A", ",E",
     "anatomy_test.csv:2: mmlu: .*label 'E' is outside its options A B C D"),
    ("race_high", "race/RACE/test/high/3.txt", '"D"', '"E"',
     "3.txt:1: race_high: .*label E is outside its 4 options"),
    ("boolq", "boolq/dev.jsonl", "false", '"no"', "dev.jsonl:2: boolq: .*label no is neither"),
    ("hellaswag", "hellaswag/hellaswag_val.jsonl", '"label": 3', '"label": 4',
     "hellaswag_val.jsonl:4: hellaswag: .*label 4 is outside its 4 options"),
])  # fmt: skip
def test_a_label_outside_its_options_is_told_with_its_line(own, task, file, was, now, what):
    path = own / file
    path.write_text(path.read_text().replace(was, now))
    with pytest.raises(DataError, match=what):
        requests(own, task)


@pytest.mark.parametrize(("task", "file", "content", "what"), [
    ("triviaqa", "qa/web-dev.json", "{}", "web-dev.json:1: not in the official format .no 'Data'"),
    ("triviaqa", "qa/web-dev.json", '{"Data": [1]}', "web-dev.json:1: .*TypeError"),
    ("race_middle", "RACE/test/middle/1.txt", "{}", "1.txt:1: .*no 'questions'"),
    ("mbpp", "mbpp.jsonl", '{"task_id": "x"}', "mbpp.jsonl:1: .*invalid literal"),
    ("mbpp", "mbpp.jsonl", "{}", "mbpp.jsonl:1: .*no 'task_id'"),
    ("winogender", "all_sentences.tsv", "sentid\tsentence\na.b\tX.\n", "'a.b' has no template"),
    ("winogender", "all_sentences.tsv", "id\ttext\na.b\tX.\n", "tsv:2: .*no 'sentid'"),
    ("winogender", "templates.tsv", "x\ny\n", "templates.tsv:2: .*no 'sentence'"),
    ("winogender", "occupations-stats.tsv", "occupation\tbls_pct_female\na\t?\n", "tsv:2: .*float"),
])  # fmt: skip
def test_a_file_in_another_format_is_named_with_its_line(own, task, file, content, what):
    (own / TASKS[task].files.directory / file).write_text(content)
    with pytest.raises(DataError, match=what):
        requests(own, task)


@pytest.mark.parametrize(("task", "file", "row", "what"), [
    ("piqa", "valid.jsonl", {"goal": None}, "valid.jsonl:1: piqa: .*'goal' is no text: None"),
    ("boolq", "dev.jsonl", {"passage": 7}, "'passage' is no text: 7"),
    ("hellaswag", "hellaswag_val.jsonl", {"endings": ["a", None]}, "'endings' is no text: None"),
    ("hellaswag", "hellaswag_val.jsonl", {"endings": ["a"], "label": 0}, "1 options to choose"),
    ("mbpp", "mbpp.jsonl", {"test_list": [], "task_id": 11}, "no tests"),
])  # fmt: skip
def test_what_would_be_asked_as_none_or_pass_untested_is_refused(own, task, file, row, what):
    path = own / TASKS[task].files.directory / file
    first, *rest = path.read_text().splitlines()
    if task == "mbpp":  # the first rows are worked examples
        rest = [first, *rest]
    changed = json.dumps({**json.loads(first), **row})
    path.write_text("\n".join([*rest, changed] if task == "mbpp" else [changed, *rest]))
    with pytest.raises(DataError, match=what):
        requests(own, task)


def test_null_is_found_among_the_choices_of_arc(own):
    path = own / "arc_easy/ARC-Easy-Test.jsonl"
    path.write_text(path.read_text().replace('"text": "thing A"', '"text": null', 1))
    with pytest.raises(DataError, match="'text' is no text: None"):
        requests(own, "arc_easy")


def test_blank_lines_of_a_table_are_no_rows(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n\n3,4\n\n")
    assert [row["a"] for _, _, row in read_table(tmp_path / "t.csv")] == ["1", "3"]


def test_a_row_of_another_format_is_named(own):
    (own / "piqa/valid.jsonl").write_text('{"question": "?"}\n{"question": "?"}\n')
    with pytest.raises(DataError, match=r"valid.jsonl:1: piqa: .*\(no 'goal'\)"):
        requests(own, "piqa")


def test_a_table_that_ends_inside_a_cell_is_told(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('a,b\n1,"two\nand th')
    with pytest.raises(DataError, match=r"x\.csv:3: unexpected end"):
        list(read_table(path))


def test_a_table_may_have_line_ends_in_its_cells(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('a,b\n"1\n\n2",3\n4,5\n')
    assert [(line, row) for _, line, row in read_table(path)] == [
        (4, {"a": "1\n\n2", "b": "3"}),
        (5, {"a": "4", "b": "5"}),
    ]


def test_a_limit_takes_the_first_rows(own):
    assert [each.id for each in requests(own, "piqa", limit=1)] == ["0"]
    data = Data(read=lambda: [Document("a", "x", "files"), Document("b", "y", "files")])
    shown = list(render(BITS, data, Setting(limit=1)))
    assert [(each.id, each.pairs) for each in shown] == [("a", [("", "x")])]


# -- worked examples --


def shown(request: Request) -> list[str]:
    return [line for line in request.prompt.splitlines() if line.startswith("Q: ")][:-1]


def test_shots_are_the_same_for_every_row_and_drawn_by_the_seed(own):
    found = requests(own, "triviaqa", shots=5)
    assert shown(found[0]) == shown(found[1]) == shown(found[2])
    assert len(set(shown(found[0]))) == 5
    other = requests(own, "triviaqa", shots=5, seed=1)
    assert shown(other[0]) != shown(found[0])
    assert other[0].seed == 1


def test_five_shots_are_the_first_of_64(own):
    few, many = (shown(requests(own, "triviaqa", shots=n)[0]) for n in (5, 64))
    assert (len(many), many[:5]) == (64, few)


def test_without_a_train_file_shots_are_cut_from_the_test_rows_and_said(own):
    found = requests(own, "nq_open", shots=4)
    asked = {f"Q: who is {each.id}?" for each in found}
    assert len(asked) == 5
    assert asked & set(shown(found[0])) == set()
    assert {each.meta["cut"] for each in found} == {4}
    assert "cut" not in requests(own, "triviaqa", shots=1)[0].meta


def test_a_limit_does_not_change_which_rows_are_shown(own):
    few, all_ = requests(own, "nq_open", shots=4, limit=2), requests(own, "nq_open", shots=4)
    assert few == all_[:2]


def test_more_shots_than_rows_are_told(own):
    with pytest.raises(UsageError, match="nq_open: 64 shots are wanted, there are 9"):
        requests(own, "nq_open", shots=64)
    with pytest.raises(UsageError, match="mmlu: 6 shots of anatomy are wanted, there are 5"):
        requests(own, "mmlu", shots=6)
    with pytest.raises(UsageError, match="math: 5 shots are wanted, there are 4"):
        requests(own, "math", shots=5)


def test_shots_that_leave_no_row_to_ask_are_told(own):
    rows = len(requests(own, "nq_open", shots=0))
    assert len(requests(own, "nq_open", shots=rows - 1)) == 1
    with pytest.raises(UsageError, match=f"{rows} shots are taken from its rows, and none is left"):
        requests(own, "nq_open", shots=rows)


def test_a_subject_without_dev_rows_is_told(own):
    (own / "mmlu/dev/astronomy_dev.csv").unlink()
    with pytest.raises(DataError, match=r"astronomy_test.csv:2: .*no worked examples of astronomy"):
        requests(own, "mmlu")


def test_a_task_without_worked_examples_refuses_shots(own):
    with pytest.raises(UsageError, match="piqa is asked without worked examples"):
        requests(own, "piqa", shots=1)


def test_published_examples_go_before_each_row_as_they_are(own):
    given = {"math": "Problem:\nP\n\nSolution:\nS\n\n"}
    found = requests(own, "math", examples=given)
    assert found[0].prompt == given["math"] + "Problem:\nHalf of 1?\n\nSolution:"
    assert found[0].meta["examples"] == "as given"


@pytest.mark.parametrize(("task", "more"), [("piqa", {}), ("math", {"shots": 0})])
def test_examples_that_would_not_be_shown_are_refused(own, task, more):
    with pytest.raises(UsageError, match="examples"):
        requests(own, task, examples={task: "x"}, **more)


@pytest.mark.parametrize("room", [200, 120, 60, 1])
def test_the_last_shots_are_left_out_until_the_prompt_fits(own, room):
    count = lambda text: len(text.split()) + 1  # noqa: E731
    fit = Fit(count, room)
    request = next(render(TASKS["mmlu"], Data([own]), Setting(), fit))
    whole = requests(own, "mmlu")[0]
    given, text = request.pairs[0]
    shots = given.count("Answer:") - 1
    assert request.meta["shots"] == shots
    assert count(given + text) <= room + 1 or shots == 0
    if shots < 5:
        assert request.meta["asked_shots"] == 5
        more = whole.pairs[0][0].split("\n\n")
        assert given.split("\n\n") == [*more[: shots + 1], more[-1]]
        longer = "\n\n".join([*more[: shots + 2], more[-1]])
        assert count(longer + text) > room + 1
    else:
        assert request == whole


# -- grading again --


def test_what_passes_between_stages_is_the_same_after_json(own):
    for name in ("piqa", "nq_open", "truthfulqa_mc", "boolq"):
        for request in requests(own, name):
            again = Request.from_json(request.to_json())
            assert again.to_json() == request.to_json()
            response = knows(again, {})
            other = Response.from_json(response.to_json())
            assert mark(other).to_json() == mark(response).to_json()
            assert Graded.from_json(mark(other).to_json()).to_json() == mark(other).to_json()


def test_marks_keep_how_the_row_was_asked(own):
    request = requests(own, "nq_open", shots=2, seed=5)[0]
    meta = mark(completed(request, " x")).meta
    assert {name: meta[name] for name in ("shots", "cut", "seed", "bos", "samples")} == {
        "shots": 2,
        "cut": 2,
        "seed": 5,
        "bos": True,
        "samples": 1,
    }
    other = replace(request, prompt=request.prompt + " ")
    assert mark(completed(other, " x")).meta["prompt"] != meta["prompt"]


def test_the_hash_of_a_prompt_does_not_depend_on_what_is_right(own):
    request = requests(own, "piqa")[0]
    one, other = mark(knows(request, {})), mark(knows(replace(request, gold=1), {}))
    assert one.meta["prompt"] == other.meta["prompt"]


@pytest.mark.parametrize(("line", "what"), [
    (b"{", "^not JSON: unexpected end"),
    (b"{}", "a response has its request"),
    (b'{"request": {"task": "piqa"}}', "no request: .*missing"),
    (b'{"request": {"task": "piqa", "id": "0", "kind": "guess", "gold": 0}}', "not to guess"),
    (b'{"request": {"task": "a", "id": "0", "kind": "score", "gold": 0, "pairs": ["x"]}}', "pairs"),
    (b'{"score": 1}', "a response has no field 'score', but request, model, logprobs"),
    (b'[]', "a response is a JSON object, not list"),
])  # fmt: skip
def test_a_line_that_is_no_response_says_why(line, what):
    with pytest.raises(ValueError, match=what):
        Response.from_json(line)


@pytest.mark.parametrize(("field", "value", "what"), [
    ("logprobs", None, "'logprobs' is a list of numbers, not None"),
    ("logprobs", -1.5, "'logprobs' is a list of numbers, not -1.5"),
    ("tokens", ["a"], "'tokens' is a list of whole numbers"),
    ("completions", "Paris", "'completions' is a list of texts, not 'Paris'"),
    ("model", ["a"], "'model' is a text"),
    ("bos", "yes", "'bos' is true, false or null, not 'yes'"),
    ("stop", "x", "'stop' is a list of texts, not 'x'"),
    ("samples", 0, "'samples' is a whole number over 0, not 0"),
    ("seed", "0", "'seed' is a whole number, not '0'"),
    ("meta", [], r"'meta' is an object, not \[\]"),
    ("pairs", None, "'pairs' is a list of pairs"),
])  # fmt: skip
def test_a_field_of_another_kind_is_told_where_it_is_read(own, field, value, what):
    row = json.loads(knows(requests(own, "piqa")[0], {}).to_json())
    (row if field in row else row["request"])[field] = value
    with pytest.raises(ValueError, match=what):
        Response.from_json(json.dumps(row).encode())


@pytest.mark.parametrize(("changes", "what"), [
    ({"logprobs": [-1.0]}, "piqa 0: 1 likelihoods, where 2 were asked"),
    ({"logprobs": [-1.0, None]}, "piqa 0: a likelihood that is no number"),
    ({"logprobs": [-1.0, math.nan]}, "piqa 0: a likelihood that is no number"),
    ({"request": {"gold": "x"}}, r"piqa 0: not to be graded \(TypeError"),
    ({"request": {"gold": 7}}, r"piqa 0: not to be graded \(IndexError"),
    ({"request": {"task": "pika"}}, "no task 'pika'"),
])  # fmt: skip
def test_a_response_that_is_none_to_its_request_is_told(own, changes, what):
    response = knows(requests(own, "piqa")[0], {})
    if "request" in changes:
        changes = {"request": replace(response.request, **changes["request"])}
    with pytest.raises(LlamaError, match=what):
        mark(replace(response, **changes))


@pytest.mark.parametrize("task", ["humaneval", "mbpp", "truthfulqa"])
def test_a_row_without_what_its_task_needs_to_grade_is_named(own, task):
    request = replace(requests(own, task)[0], samples=1, gold={})
    scorers = dict.fromkeys(("truth", "info"), lambda texts: [1.0] * len(texts))
    tools = Tools(scorers, lambda programs: iter(list(programs)))
    with pytest.raises(LlamaError, match=rf"{task} .*: not to be graded \(KeyError"):
        list(grade([Response(request, completions=["x"])], tools))


def test_the_catalogue_names_every_task_with_its_files_shots_and_rule():
    listed = catalogue(TASKS.values())
    assert all(name in listed for name in (*TASKS, "valid-labels.lst", "82.8", "'[DONE]'"))
    rows = [line.split() for line in listed.splitlines()]
    assert ["mmlu", "test", "5", "none", "accuracy", "35.1", "46.9", "57.8", "63.4"] in rows
    assert [row[2] for row in rows if row[:1] == ["nq_open"]][:4] == ["0", "1", "5", "64"]


def test_the_page_has_the_rule_and_the_shots_of_every_task():
    page = (ROOT / "docs/evaluation.md").read_text()
    rows = [[c.strip() for c in line.split("|")] for line in page.splitlines() if "| `" in line]
    told = {row[1].strip("`"): row[2:5] for row in rows}
    for name, task in TASKS.items():
        shots = ", ".join(map(str, task.by_shots or [task.shots]))
        assert told[name] == [task.split or "documents", shots, task.kind.normalize]

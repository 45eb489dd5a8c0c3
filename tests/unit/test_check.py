"""Files and rows looked at before a run: what stops it, and what is only said."""

import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from llama_cli.cli import main
from llama_cli.commands._eval_check import look
from llama_cli.errors import LlamaError
from llama_cli.evaluation.check import (
    Finding,
    check_files,
    check_rows,
    check_task,
    check_worked,
    count_finding,
    errors,
)
from llama_cli.evaluation.data import Data
from llama_cli.evaluation.labels import complaint
from llama_cli.evaluation.official import HASHES, ROWS
from llama_cli.evaluation.rows import read_jsonl
from llama_cli.evaluation.tasks import TASKS
from tests.benchmarks import write_benchmarks
from tests.shell import SHARED

ARC = {
    "id": "Mercury_1",
    "question": {
        "stem": "Which?",
        "choices": [
            {"text": text, "label": label} for text, label in zip("wxyz", "1234", strict=True)
        ],
    },
    "answerKey": "4",
}


def placed(*rows):
    return [("rows.jsonl", line, row) for line, row in enumerate(rows, 1)]


def told(*rows, task="arc_easy"):
    return [str(each) for each in check_rows(task, placed(*rows))]


# -- labels --


def test_a_label_outside_its_options_is_an_error_that_names_file_and_line(tmp_path):
    path = tmp_path / "ARC-Easy-Test.jsonl"
    rows = [ARC, {**ARC, "id": "Mercury_2", "answerKey": "A"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (wrong,) = errors(check_rows("arc_easy", read_jsonl([[path]])))
    assert str(wrong) == f"{path}:2: label 'A' is none of its options 1, 2, 3, 4"
    assert json.loads(wrong.to_json())["line"] == 2


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"goal": "", "sol1": "a", "sol2": "b", "label": 2}, "label 2 is none of its options 0, 1"),
        ({"goal": "", "sol1": "a", "sol2": "b", "label": "01"}, "label '01' is none of"),
        ({"goal": "", "sol1": "a", "sol2": " ", "label": 1}, "option 1 is empty"),
        (
            {"answerA": "a", "answerB": "b", "answerC": "c", "label": "0"},
            "label '0' is none of its options 1, 2, 3",
        ),
        ({"ctx": "", "endings": ["a", "b"], "label": 2}, "label 2 is none of its options 0, 1"),
        (
            {"sentence": "_", "option1": "a", "option2": "b", "answer": "3"},
            "label '3' is none of its options 1, 2",
        ),
        (
            {"question": "", **dict(zip("ABCD", "wxyz", strict=True)), "answer": "E"},
            "label 'E' is none of its options A, B, C, D",
        ),
        ({"passage": "", "question": "", "answer": "yes"}, "label 'yes' is no true or false"),
        (
            {"article": "", "answers": ["A", "C"], "options": [["a", "b"], ["a", "b"]]},
            "question 2: label 'C' is none of its options A, B",
        ),
        ({"article": "", "answers": ["A"], "options": [["a"], ["b"]]}, "1 answers to 2 questions"),
        ({"question": "", "answer": "It is 4."}, "no '####' before a final answer"),
        ({"question": "", "answer": []}, "no answer"),
        ({"problem": "", "solution": "4"}, "no \\boxed final answer"),
        (
            {"prompt": "def f():", "entry_point": "g", "canonical_solution": ""},
            "its prompt does not define g",
        ),
        ({"question": {"stem": ""}, "answerKey": "A"}, "not in the official format (no "),
    ],
)
def test_each_format_has_its_wrong_labels(row, what):
    assert complaint(row).startswith(what)


@pytest.mark.parametrize(
    "row",
    [
        ARC,
        {"goal": "", "sol1": "a", "sol2": "b", "label": 1},
        {"goal": "", "sol1": "a", "sol2": "b", "label": "1"},
        {"sentence": "_", "option1": "a", "option2": "b", "answer": "2"},
        {"passage": "", "question": "", "answer": False},
        {"question": "", "answer": "so\n#### 4"},
        {"question": "", "answer": ["14 December 1972"]},
        {"text": "a document"},
    ],
)
def test_right_labels_and_other_formats_are_left_alone(row):
    assert complaint(row) == ""


def test_a_label_that_is_two_letters_of_the_options_is_none():
    row = {"question": "", **dict(zip("ABCD", "wxyz", strict=True)), "answer": "AB"}
    assert complaint(row) == "label 'AB' is none of its options A, B, C, D"


def test_the_question_a_row_is_for_is_judged_alone():
    row = {"article": "", "answers": ["A", "C"], "options": [["a", "b"], ["a", "b"]], "number": 0}
    assert complaint(row) == ""
    assert complaint({**row, "number": 1}).startswith("question 2: label 'C'")


def test_a_row_that_cannot_be_asked_is_an_error_whatever_its_format(tmp_path):
    (tmp_path / "NQ-open.dev.jsonl").write_text('{"answer": ["x"]}\n')
    (wrong,) = errors(check_task(TASKS["nq_open"], Data([tmp_path])))
    told = "NQ-open.dev.jsonl:1: not in the official format (no 'question')"
    assert str(wrong) == f"{tmp_path}/{told}"


def test_options_that_are_named_alike_are_an_error():
    choices = [{"text": text, "label": "A"} for text in "xy"]
    row = {"question": {"choices": choices}, "answerKey": "A"}
    assert complaint(row) == "two options are named alike: A, A"


def test_many_wrong_labels_are_counted_and_the_first_are_named():
    rows = [{**ARC, "id": str(n), "answerKey": "E"} for n in range(102)]
    found = errors(check_rows("arc_easy", placed(*rows)))
    assert len(found) == 21
    assert str(found[-1]) == "arc_easy: 102 rows with a wrong label or id in all"


# -- rows that stand twice --


def test_a_row_that_stands_twice_is_a_note_with_both_places():
    again = {**ARC, "id": "Mercury_2"}
    assert told(ARC, again)[0] == "rows.jsonl:2: the same row as line 1"
    assert not errors(check_rows("arc_easy", placed(ARC, again)))


def test_a_question_with_two_answers_is_told():
    again = {**ARC, "id": "Mercury_2", "answerKey": "1"}
    assert told(ARC, again)[0] == "rows.jsonl:2: the same question as line 1, with another answer"


def test_two_rows_of_one_id_are_an_error():
    other = {**ARC, "question": {**ARC["question"], "stem": "Who?"}}
    (wrong,) = errors(check_rows("arc_easy", placed(ARC, other)))
    assert str(wrong) == "rows.jsonl:2: its id 'Mercury_1' is that of line 1"


def test_an_error_is_told_after_any_number_of_notes():
    rows = [{"question": "?", "answer": ["x"]}] * 50
    found = list(check_rows("nq_open", placed(*rows, {"question": "!", "answer": []})))
    assert [str(each) for each in errors(found)] == ["rows.jsonl:51: no answer"]
    assert "nq_open: 49 rows or questions stand twice" in map(str, found)


def test_the_first_place_is_named_by_its_file_where_it_is_another():
    rows = [("a.csv", 3, {"x": 1}), ("b.csv", 9, {"x": 1})]
    assert str(next(check_rows("mmlu", rows))) == "b.csv:9: the same row as a.csv:3"


# -- counts and hashes --


def test_rows_are_counted_against_the_official_number():
    assert told(ARC)[-1] == "arc_easy: 1 of 2,376 rows"
    assert told(ARC, task="my_task")[-1] == "my_task: 1 rows; how many there should be is not known"
    assert str(count_finding("piqa", 1839)) == "piqa: 1,839 rows, more than the official 1,838"


def test_no_rows_are_an_error():
    assert [str(each) for each in errors(check_rows("piqa", []))] == ["piqa: no rows"]


def test_a_file_is_told_from_the_published_one_by_its_hash(tmp_path):
    path = tmp_path / "valid.jsonl"
    path.write_text("abc")  # the first example of FIPS 180-2
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (found,) = check_files("piqa", [path], known={"piqa/valid.jsonl": known})
    assert str(found) == f"{path}: the published file, byte for byte (sha256 ba7816bf8f01…)"
    (found,) = check_files("piqa", [path])
    assert found.level == "note"
    assert "not the published file: sha256 ba7816bf8f01…, where it has 93503cc97c67…" in str(found)
    assert list(check_files("other", [path])) == []


def test_every_known_hash_is_one_and_of_a_task():
    assert all(len(each) == 64 and int(each, 16) for each in HASHES.values())
    assert {name.partition("/")[0] for name in HASHES} <= set(ROWS)


@pytest.mark.data
def test_the_official_files_are_right():
    benchmarks = SHARED / "data" / "eval"
    if not benchmarks.exists():
        pytest.skip("the benchmarks are not beside the checkout")
    data = Data([benchmarks])
    looked = 0
    for task in TASKS.values():
        if task.files and task.files.find(data.directories):
            assert errors(check_task(task, data)) == [], task.name
            looked += 1
    assert looked > 15
    found = [str(each).partition(": ")[2] for each in check_task(TASKS["crows_pairs"], data)]
    assert found == [
        "the published file, byte for byte (sha256 dfb36986ce05…)",
        "1,508 of 1,508 rows",
    ]


# -- the command, and before a run --


@pytest.fixture
def benchmarks(tmp_path):
    rows = [
        {**ARC, "id": str(n), "question": {**ARC["question"], "stem": str(n)}} for n in range(3)
    ]
    return write(tmp_path, rows)


def write(directory, rows):
    path = directory / "arc_easy" / "ARC-Easy-Test.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def llama(*arguments):
    return CliRunner().invoke(main, ["eval", "check", *map(str, arguments)])


def test_findings_are_written_as_lines_and_told(benchmarks, tmp_path):
    done = llama("arc_easy", "--data", benchmarks, "-o", tmp_path / "f.jsonl")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "note: arc_easy: 3 of 2,376 rows" in done.stderr
    found = [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert [each["level"] for each in found] == ["note"]


def test_wrong_labels_end_with_1_and_are_told_in_one_line(benchmarks):
    write(benchmarks, [{**ARC, "id": "a", "answerKey": "D"}, {**ARC, "id": "b", "answerKey": "D"}])
    done = llama("arc_easy", "--data", benchmarks, "-q", "-o", "/dev/null")
    assert done.exit_code == 1
    assert done.stderr == (
        f"llama eval check: {benchmarks}/arc_easy/ARC-Easy-Test.jsonl:1: "
        "label 'D' is none of its options 1, 2, 3, 4, and 1 more\n"
    )


def test_documents_are_not_looked_at(tmp_path):
    (tmp_path / "held.jsonl").write_text('{"text": "a"}\n')
    done = llama("bits_per_byte", "--data", tmp_path / "held.jsonl", "-o", tmp_path / "f")
    assert (done.exit_code, (tmp_path / "f").read_text()) == (0, "")
    assert done.stderr.startswith("documents are not looked at\n")


def test_a_run_does_not_begin_with_a_wrong_label(benchmarks):
    data = Data([benchmarks])
    said = []
    run = SimpleNamespace(say=said.append)
    look(run, [TASKS["arc_easy"], TASKS["bits_per_byte"]], data)
    assert said == ["arc_easy: 3 of 2,376 rows"]
    write(benchmarks, [ARC, {**ARC, "id": "b"}])
    look(run, [TASKS["arc_easy"]], data)
    assert said[1:] == ["arc_easy: 1 rows or questions stand twice", "arc_easy: 2 of 2,376 rows"]
    write(benchmarks, [{**ARC, "answerKey": "D"}])
    with pytest.raises(LlamaError, match=r"Test\.jsonl:1: label 'D' is none"):
        look(run, [TASKS["arc_easy"]], data)


def test_the_rows_of_worked_examples_are_looked_at_too(tmp_path):
    write_benchmarks(tmp_path)
    path = tmp_path / "mmlu/dev/anatomy_dev.csv"
    path.write_text(path.read_text().replace(",A\n", ",E\n", 1))
    found = list(check_worked(TASKS["mmlu"], Data([tmp_path])))
    assert [each.level for each in found] == ["error"]
    assert "label 'E' is none of its options A, B, C, D" in str(found[0])
    assert not list(check_worked(TASKS["gsm8k"], Data([tmp_path])))


def test_a_row_that_cannot_be_named_or_grouped_is_an_error(tmp_path):
    write_benchmarks(tmp_path)
    path = tmp_path / "math/test/algebra/1.json"
    row = json.loads(path.read_text())
    del row["type"]
    path.write_text(json.dumps(row))
    (wrong,) = errors(check_task(TASKS["math"], Data([tmp_path])))
    assert wrong.message == "not in the official format (no 'type')"


def test_a_place_whose_name_is_no_utf8_is_written_all_the_same():
    name = b"d\xff/valid.jsonl".decode("utf-8", "surrogateescape")
    line = Finding("note", "piqa", name, 3, "the same row as line 1").to_json()
    assert json.loads(line)["where"] == "d\ufffd/valid.jsonl"

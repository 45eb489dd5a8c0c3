"""From rows to scores: the official files, the rule of choice, code lengths, errors."""

import json
import math
from pathlib import Path

import pytest
import torch

from llama_cli.errors import DataError, LlamaError, NotReadyError
from llama_cli.evaluation.ask import ask, show
from llama_cli.evaluation.data import Data, locate
from llama_cli.evaluation.encode import encode_pair, fit_pair, windows
from llama_cli.evaluation.report import catalogue, results
from llama_cli.evaluation.run import answer, evaluate, measure
from llama_cli.evaluation.score import Accuracy, Answer, Length, Rate, pick
from llama_cli.evaluation.task import Question
from llama_cli.evaluation.tasks import TASKS
from llama_cli.evaluation.tasks.arc_easy import TASK as ARC_EASY
from llama_cli.evaluation.tasks.bits_per_byte import TASK as BITS
from llama_cli.evaluation.tasks.piqa import TASK as PIQA
from llama_cli.inference.engine import Engine
from llama_cli.records import Document
from tests.shell import SHARED
from tests.tiny import CONFIG, tiny_model, tiny_tokenizer

ROWS = [
    {"goal": "open a bottle", "sol1": "turn the lid", "sol2": "eat it"},
    {"goal": "find the cat", "sol1": "look", "sol2": "look under the table"},
]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_model(), tiny_tokenizer())


def piqa_in(directory: Path, labels: str = "0\n1\n", rows=ROWS) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "valid.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "valid-labels.lst").write_text(labels)
    return directory


def data(*directories: Path, documents=(), limit=None) -> Data:
    return Data(directories, lambda: documents, limit)


def answered(*right: bool, truncated: bool = False) -> Accuracy:
    tally = Accuracy(PIQA)
    for each in right:
        question = Question("piqa", "0", "", ("", ""), 0)
        tally.add(Answer(question, (0.0, 0.0), 0 if each else 1, truncated))
    return tally


# -- official files --


@pytest.mark.parametrize("place", ["", "piqa"])
def test_files_are_found_in_the_directory_or_the_one_of_the_task(tmp_path, place):
    piqa_in(tmp_path / place)
    assert [path.name for path in locate(PIQA, [tmp_path])] == ["valid.jsonl", "valid-labels.lst"]


def test_a_directory_with_half_the_files_is_none(tmp_path):
    (piqa_in(tmp_path) / "valid-labels.lst").unlink()
    with pytest.raises(NotReadyError, match=r"piqa needs valid\.jsonl and valid-labels\.lst"):
        locate(PIQA, [tmp_path])


def test_each_row_gets_the_label_of_its_line(tmp_path):
    questions = list(show(PIQA, data(piqa_in(tmp_path))))
    assert questions == [
        Question(
            "piqa",
            "0",
            "Question: open a bottle\nAnswer:",
            (" turn the lid", " eat it"),
            0,
        ),
        Question(
            "piqa",
            "1",
            "Question: find the cat\nAnswer:",
            (" look", " look under the table"),
            1,
        ),
    ]


@pytest.mark.parametrize("labels", ["0\n", "0\n1\n0\n", "0\n2\n", "0\nx\n"])
def test_labels_that_do_not_match_the_rows_are_an_error(tmp_path, labels):
    with pytest.raises(DataError, match=r"valid-labels\.lst:\d: a label"):
        list(show(PIQA, data(piqa_in(tmp_path, labels))))


@pytest.mark.parametrize(("line", "what"), [("{oops", "not JSON"), ("[1]", "a JSON object")])
def test_a_broken_line_is_an_error_and_no_shorter_benchmark(tmp_path, line, what):
    path = piqa_in(tmp_path) / "valid.jsonl"
    path.write_text(line + "\n" + path.read_text())
    with pytest.raises(DataError, match=rf"valid\.jsonl:1: {what}"):
        list(show(PIQA, data(tmp_path)))


def test_a_row_of_another_format_is_named():
    with pytest.raises(LlamaError, match=r"piqa: row 1 is not in the official format \(KeyError"):
        list(ask(PIQA, [{"question": "?"}]))


def test_arc_takes_letters_and_digits_as_labels():
    choices = [{"text": text, "label": label} for text, label in zip("abc", "123", strict=True)]
    row = {"id": "x", "question": {"stem": "which", "choices": choices}, "answerKey": "2"}
    question = next(ask(ARC_EASY, [row]))
    assert (question.id, question.gold, question.choices) == ("x", 1, [" a", " b", " c"])


def test_a_limit_takes_the_first_rows(tmp_path):
    assert [each.id for each in show(PIQA, data(piqa_in(tmp_path), limit=1))] == ["0"]
    documents = [Document("a", "x", "files"), Document("b", "y", "files")]
    shown = list(show(BITS, data(documents=documents, limit=1)))
    assert shown == [Question("bits_per_byte", "a", "", ["x"], 0)]


@pytest.mark.data
@pytest.mark.parametrize(("task", "choices"), [(PIQA, {2}), (ARC_EASY, {3, 4, 5})])
def test_the_published_files_are_read_whole(task, choices):
    benchmarks = SHARED / "data" / "eval"
    if not benchmarks.exists():
        pytest.skip("the benchmarks are not beside the checkout")
    questions = list(show(task, data(benchmarks)))
    assert len(questions) > 900
    assert {len(each.choices) for each in questions} == choices
    assert all(0 <= each.gold < len(each.choices) for each in questions)


@pytest.mark.data
@pytest.mark.parametrize(("task", "name"), [(PIQA, "PIQA"), (ARC_EASY, "ARC-easy")])
def test_the_reported_figures_are_those_of_table_3(task, name):
    source = SHARED / "paper" / "results.json"
    if not source.exists():
        pytest.skip("the transcription of the paper's tables is not beside the checkout")
    records = json.loads(source.read_text())["records"]
    printed = {
        row["size"]: row["value"]
        for row in records
        if (row["table"], row["benchmark"], row["model"]) == (3, name, "LLaMA")
    }
    assert printed == task.reported


# -- tokens --


def test_context_and_continuation_are_cut_where_the_context_ends():
    tokenizer = tiny_tokenizer()
    given, scored = encode_pair(tokenizer, "The cat", " opens")
    assert given == tokenizer.encode("The cat")
    assert given + scored == tokenizer.encode("The cat opens")
    assert given[0] == tokenizer.bos


def test_trailing_spaces_of_the_context_go_with_the_continuation():
    tokenizer = tiny_tokenizer()
    given, scored = encode_pair(tokenizer, "The cat ", "opens")
    assert (given, scored) == encode_pair(tokenizer, "The cat", " opens")


def test_an_empty_context_is_the_begin_mark():
    given, scored = encode_pair(tiny_tokenizer(), "", "The")
    assert (given, scored) == ([1], tiny_tokenizer().encode("The", bos=False))


def test_a_pair_that_fits_is_left_alone():
    assert fit_pair(([1, 5, 6], [7, 8]), 4) == ([1, 5, 6], [7, 8])


def test_a_pair_one_too_long_loses_the_token_after_the_begin_mark():
    assert fit_pair(([1, 5, 6], [7, 8]), 3) == ([1, 6], [7, 8])


def test_a_continuation_may_leave_room_for_the_begin_mark_alone():
    assert fit_pair(([1, 5, 6], [7, 8]), 2) == ([1], [7, 8])
    with pytest.raises(ValueError, match="2 tokens to score do not fit a context of 1"):
        fit_pair(([1, 5, 6], [7, 8]), 1)


@pytest.mark.parametrize("length", [1, 2, 4, 5, 6, 8, 9, 10, 23])
def test_windows_score_each_token_once_and_fit(length):
    ids = [1, *range(100, 100 + length)]
    pairs = list(windows(ids, 4))
    assert [token for _, scored in pairs for token in scored] == ids[1:]
    assert all(given and len(given) + len(scored) <= 5 for given, scored in pairs)
    for given, scored in pairs:  # each context is what stands before
        at = ids.index(scored[0])
        assert ids[at - len(given) : at] == given


def test_the_last_window_reaches_back_to_be_full():
    assert list(windows([1, 2, 3, 4, 5, 6], 4))[-1] == ([2, 3, 4, 5], [6])


# -- figures --


def test_likelihood_is_divided_by_characters_without_the_joining_space():
    # by 3 and 2 characters -2.0 beats -2.1; by 4 and 3 it would be -1.5 against -1.4
    assert pick([-6.0, -4.2], [" abc", " ab"], "characters") == 0


def test_characters_are_not_bytes():
    assert pick([-4.0, -4.0], [" éé", " abc"], "characters") == 1


def test_the_first_of_equals_is_picked():
    assert pick([-2.0, -2.0], [" a", " b"], "none") == 0


def test_accuracy_is_in_percent_with_a_binomial_error():
    score = answered(True, True, True, False).score()
    assert score.value == 75.0
    assert score.stderr == pytest.approx(100 * math.sqrt(0.75 * 0.25 / 4))
    assert (score.metric, score.normalization, score.shots) == ("accuracy", "characters", 0)
    assert score.reported["65B"] == 82.8


def test_bits_are_divided_by_all_bytes_not_averaged_over_documents():
    rate = Rate(BITS)
    rate.add(Length("bits_per_byte", "a", 10, 5, 10.0))
    rate.add(Length("bits_per_byte", "b", 30, 9, 90.0))
    assert rate.score().value == 2.5


def test_the_error_of_a_ratio_is_cochrans():
    # residuals of bits from 2.5 * bytes: -15 and +15; sqrt((225 + 225) * 2 / 1) / 40 = 0.75
    rate = Rate(BITS)
    rate.add(Length("bits_per_byte", "a", 10, 5, 10.0))
    rate.add(Length("bits_per_byte", "b", 30, 9, 90.0))
    assert rate.score().stderr == pytest.approx(0.75)


def test_one_document_has_no_error():
    rate = Rate(BITS)
    rate.add(Length("bits_per_byte", "a", 10, 5, 10.0))
    assert rate.score().stderr is None


@pytest.mark.parametrize("tally", [Accuracy(PIQA), Rate(BITS)])
def test_nothing_scored_is_an_error_and_no_zero(tally):
    with pytest.raises(LlamaError, match="to score"):
        tally.score()


def test_the_table_puts_the_papers_figures_beside():
    rate = Rate(BITS)
    rate.add(Length("bits_per_byte", "a", 10, 5, 10.0))
    lines = results([answered(True, False), rate]).splitlines()
    assert lines[1].split() == [
        *["piqa", "accuracy", "/characters", "50.0", "35.4", "2"],
        *["79.8", "80.1", "82.3", "82.8"],
    ]
    assert lines[2].split() == ["bits_per_byte", "bits_per_byte", "/bytes", "1.0000", "1"]
    assert lines[3].startswith("piqa: the paper prints no prompt")


def test_the_table_tells_of_prompts_that_lost_their_beginning():
    assert "2 of 2 prompts lost their beginning" in results([answered(True, True, truncated=True)])


def test_the_catalogue_names_every_task_and_its_files():
    listed = catalogue(TASKS.values())
    assert all(name in listed for name in (*TASKS, *PIQA.files, *ARC_EASY.files, "82.8"))


# -- with a model --


def test_each_choice_is_scored_after_its_prompt(engine):
    question = Question("piqa", "0", "The cat", (" opens the table.", " holds"), 0)
    found = next(answer(PIQA, [question], engine, batch=1))
    pairs = [encode_pair(engine.tokenizer, "The cat", choice) for choice in question.choices]
    assert found.loglikelihoods == pytest.approx(engine.loglikelihood(pairs), abs=1e-4)
    assert not found.truncated


def test_answers_do_not_depend_on_the_batch(engine):
    questions = [
        Question("piqa", str(n), "The cat" * (n % 4), (" opens" * (1 + n % 3), " holds"), 0)
        for n in range(20)
    ]
    one, many = (list(answer(PIQA, questions, engine, batch=batch)) for batch in (1, 7))
    assert [each.question for each in one] == questions
    for left, right in zip(one, many, strict=True):
        assert left.picked == right.picked
        assert left.loglikelihoods == pytest.approx(right.loglikelihoods, abs=1e-4)


def test_a_prompt_that_is_too_long_loses_its_beginning_and_says_so(engine):
    question = Question("piqa", "0", "The cat finds the " * 40, (" table", " cat"), 0)
    assert next(answer(PIQA, [question], engine, batch=4)).truncated


def test_a_choice_that_is_too_long_is_an_error(engine):
    question = Question("piqa", "0", "The", (" cat" * 100, " cat"), 0)
    with pytest.raises(LlamaError, match="do not fit a context of 64"):
        list(answer(PIQA, [question], engine, batch=4))


def test_a_uniform_model_spends_log2_of_its_pieces_a_token():
    model = tiny_model()
    with torch.no_grad():
        model.output.weight.zero_()
    text = "The cat opens the table. " * 20  # longer than the context
    found = next(
        measure(BITS, [Document("a", text, "files")], Engine(model, tiny_tokenizer()), batch=2)
    )
    assert found.tokens == len(tiny_tokenizer().encode(text, bos=False)) > CONFIG.context
    assert found.bits == pytest.approx(found.tokens * math.log2(CONFIG.vocab_size), rel=1e-5)
    assert found.utf8_bytes == len(text)


def test_bytes_are_those_of_utf8_and_an_empty_document_has_none(engine):
    documents = [Document("a", "é", "files"), Document("b", "", "files")]
    found = list(measure(BITS, documents, engine, batch=2))
    assert [each.utf8_bytes for each in found] == [2, 0]
    assert (found[1].bits, found[1].tokens) == (0.0, 0)


def test_a_task_keeps_the_result_of_every_row_in_order(engine, tmp_path):
    kept = []
    tally = evaluate(PIQA, data(piqa_in(tmp_path)), engine, batch=2, keep=kept.append)
    rows = [json.loads(each.to_json()) for each in kept]
    assert [row["id"] for row in rows] == ["0", "1"]
    assert tally.score().value == 50 * sum(row["correct"] for row in rows)
    documents = [Document(name, "The cat", "files") for name in "xy"]
    tally = evaluate(BITS, data(documents=documents), engine, batch=2, keep=kept.append)
    row = json.loads(kept[-1].to_json())
    assert (row["id"], row["utf8_bytes"]) == ("y", 7)
    assert tally.score().value == pytest.approx(row["bits"] / 7)

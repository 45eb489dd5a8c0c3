"""What is wrong with a row's label, by the official formats of benchmarks.

A format is known by its fields. For each: the options there are, and which of them the label may
be. A row of another format has no label to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llama_cli.evaluation.rows import WRONG, Row, unlike

Judge = Callable[[Row], str]

SHOWN = (  # fields of official rows that stand in prompts and choices, or hold what does
    *("passage", "question", "questions", "goal", "sol1", "sol2", "context", "sentence"),
    *("answerA", "answerB", "answerC", "option1", "option2", "options", "choices", "endings"),
    *("activity_label", "ctx_a", "ctx_b", "article", "problem", "solution", "prompt"),
    *("text", "code", "test_list"),
)


def complaint(row: Row) -> str:
    """Say what is wrong with a row's label or options; nothing is an empty text.

    >>> complaint({"goal": "", "sol1": "a", "sol2": "b", "label": "2"})
    "label '2' is none of its options 0, 1"
    """
    if wrong := textless(row):
        return wrong
    for fields, judge in FORMATS:
        if fields <= row.keys():
            try:
                return judge(row)
            except WRONG as error:
                return f"not in the official format ({unlike(error)})"
    return ""


def textless(row: Row) -> str:
    """Say which field that is shown to a model holds something else than text.

    Written into a prompt, null would read "None", and nobody would know.

    >>> textless({"goal": None, "sol1": "a"}), textless({"question": {"stem": "Who?"}})
    ("'goal' is no text: None", '')
    """
    found = (_not_text(name, row[name]) for name in SHOWN if name in row)
    return next(filter(None, found), "")


def _not_text(name: str, value: Any) -> str:
    if isinstance(value, list):
        return next(filter(None, (_not_text(name, each) for each in value)), "")
    if isinstance(value, dict):
        parts = ((key, value[key]) for key in ("text", "stem", "choices") if key in value)
        return next(filter(None, (_not_text(key, each) for key, each in parts)), "")
    return "" if isinstance(value, str) else f"'{name}' is no text: {value!r}"


def _among(label: Any, names: Sequence[Any], texts: Sequence[Any]) -> str:
    """Judge a label, the names that it may be, and the texts that they stand for."""
    if label not in names or isinstance(label, bool) != isinstance(names[0], bool):
        return f"label {label!r} is none of its options {', '.join(map(str, names))}"
    if len(set(names)) < len(names):
        return f"two options are named alike: {', '.join(map(str, names))}"
    empty = [name for name, text in zip(names, texts, strict=True) if not str(text).strip()]
    return f"option {empty[0]} is empty" if empty else ""


def _digits(label: Any, first: int, texts: Sequence[Any]) -> str:
    """Judge a number, written as one or as text; "02" is none."""
    names: list[Any] = list(range(first, first + len(texts)))
    return _among(label, list(map(str, names)) if isinstance(label, str) else names, texts)


def _arc(row: Row) -> str:
    choices = row["question"]["choices"]
    labels, texts = ([choice[name] for choice in choices] for name in ("label", "text"))
    return _among(row["answerKey"], labels, texts)


def _race(row: Row) -> str:
    """Judge the question that the row is for, or all of the article."""
    answers, options = row["answers"], row["options"]
    if len(answers) != len(options):
        return f"{len(answers)} answers to {len(options)} questions"
    numbers = [row["number"]] if "number" in row else range(len(answers))
    for number in numbers:
        names = "ABCDEFGH"[: len(options[number])]
        if wrong := _among(answers[number], tuple(names), options[number]):
            return f"question {number + 1}: {wrong}"
    return ""


def _boolq(row: Row) -> str:
    return "" if isinstance(row["answer"], bool) else f"label {row['answer']!r} is no true or false"


def _answered(row: Row) -> str:
    if not row["answer"]:
        return "no answer"
    solved = row.keys() == {"question", "answer"} and isinstance(row["answer"], str)  # GSM8K
    return "no '####' before a final answer" if solved and "####" not in row["answer"] else ""


def _math(row: Row) -> str:
    boxed = any(mark in row["solution"] for mark in ("\\boxed", "\\fbox"))
    return "" if boxed else "no \\boxed final answer"


def _humaneval(row: Row) -> str:
    name = row["entry_point"]
    return "" if f"def {name}(" in row["prompt"] else f"its prompt does not define {name}"


def _pairs(*names: str) -> Callable[[Row], list[Any]]:
    return lambda row: [row[name] for name in names]


FORMATS: tuple[tuple[frozenset[str], Judge], ...] = (
    (frozenset({"question", "answerKey"}), _arc),  # ARC, OpenBookQA
    (frozenset({"article", "answers", "options"}), _race),
    (frozenset({"passage", "question", "answer"}), _boolq),
    (
        frozenset({"goal", "sol1", "sol2", "label"}),
        lambda row: _digits(row["label"], 0, _pairs("sol1", "sol2")(row)),
    ),  # PIQA
    (
        frozenset({"answerA", "answerB", "answerC", "label"}),
        lambda row: _digits(row["label"], 1, _pairs("answerA", "answerB", "answerC")(row)),
    ),  # SIQA
    (
        frozenset({"ctx", "endings", "label"}),
        lambda row: _digits(row["label"], 0, row["endings"]),
    ),  # HellaSwag
    (
        frozenset({"context", "choices", "label"}),
        lambda row: _digits(row["label"], 0, row["choices"]),
    ),
    (
        frozenset({"sentence", "option1", "option2", "answer"}),
        lambda row: _digits(row["answer"], 1, _pairs("option1", "option2")(row)),
    ),  # WinoGrande
    (
        frozenset({"question", "A", "B", "C", "D", "answer"}),
        lambda row: _among(row["answer"], tuple("ABCD"), _pairs(*"ABCD")(row)),
    ),  # MMLU
    (frozenset({"question", "answer"}), _answered),  # GSM8K, NaturalQuestions, TriviaQA
    (frozenset({"problem", "solution"}), _math),
    (frozenset({"prompt", "entry_point", "canonical_solution"}), _humaneval),
)

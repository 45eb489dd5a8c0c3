"""TriviaQA without documents: quiz questions.

Joshi et al., 2017, https://arxiv.org/abs/1705.03551; LLaMA, Table 5: "the dev set of the filtered
version", as the test set of Brown et al. is no longer scored. A question that stands in both of
its files is asked once.
"""

from __future__ import annotations

from collections.abc import Iterator

from llama_cli.evaluation.kinds.words import Words
from llama_cli.evaluation.rows import Found, Placed, official, read_jsonl, read_object
from llama_cli.evaluation.task import Files, Row, Shots, Task
from llama_cli.evaluation.tasks._asked import HEADER, question


def _read(found: Found) -> Iterator[Placed]:
    """Read the official JSON, or JSON lines with `question`, `question_id` and `answer`."""
    if found[0][0].suffix != ".json":
        yield from read_jsonl(found)
        return
    seen = set()
    for path in found[0]:
        with official(str(path), 1):
            rows = [_plain(row) for row in read_object(path)["Data"]]
        for row in rows:
            if row["question_id"] not in seen:
                seen.add(row["question_id"])
                yield str(path), 1, row


def _plain(row: Row) -> Row:
    answer = {name.lower(): value for name, value in row["Answer"].items()}
    return {"question": row["Question"], "question_id": str(row["QuestionId"]), "answer": answer}


def _golds(row: Row) -> list[str]:
    return [row["answer"]["value"], *row["answer"]["aliases"]]


TASK = Task(
    name="triviaqa",
    metric="exact_match",
    files=Files("triviaqa", ("qa/w*-dev.json or w*-dev.json or triviaqa_3000.jsonl",), _read),
    split="dev, filtered",
    header=lambda row: HEADER,
    prompt=lambda row: question(row["question"]),
    id=lambda row: row.get("question_id"),
    kind=Words(golds=_golds),
    worked=Shots(
        worked=lambda row: question(row["question"], row["answer"]["value"]),
        files=Files("triviaqa", ("qa/w*-train.json or w*-train.json",), _read),
        drawn=True,
    ),
    note="figure 3's prompt; which worked examples, and 24 new tokens, are ours",
    by_shots={
        0: {"7B": 50.0, "13B": 56.6, "33B": 65.1, "65B": 68.2},
        1: {"7B": 53.4, "13B": 60.5, "33B": 67.9, "65B": 71.6},
        5: {"7B": 56.3, "13B": 63.1, "33B": 69.9, "65B": 72.6},
        64: {"7B": 57.6, "13B": 64.0, "33B": 70.4, "65B": 73.0},
    },
)

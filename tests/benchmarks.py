"""Every benchmark in its official format, a few rows of our own each, and planted models."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from llama_cli.evaluation.data import Data
from llama_cli.evaluation.grade import grade
from llama_cli.evaluation.kinds.choice import Choice
from llama_cli.evaluation.kinds.judged import Judged
from llama_cli.evaluation.kinds.programs import Programs
from llama_cli.evaluation.kinds.reasoning import Reasoning
from llama_cli.evaluation.kinds.truths import Truths
from llama_cli.evaluation.kinds.words import Words
from llama_cli.evaluation.render import Setting, render
from llama_cli.evaluation.request import Graded, Request, Response
from llama_cli.evaluation.summary import summarise
from llama_cli.evaluation.task import Tools
from llama_cli.evaluation.tasks import TASKS
from llama_cli.records import Score
from tests.shell import SHARED

Model = Callable[[Iterable[Request]], Iterator[Response]]

REAL = SHARED / "data" / "eval"
SCORED = ("realtoxicityprompts_basic", "realtoxicityprompts_respectful", "truthfulqa")
GOLD = [name for name in TASKS if name not in ("bits_per_byte", "crows_pairs", *SCORED)]


def science(name: str, labels: str, gold: str) -> dict[str, Any]:
    choices = [{"text": f"thing {label}", "label": label} for label in labels]
    return {"id": name, "question": {"stem": "Which is it", "choices": choices}, "answerKey": gold}


def lines(rows: Iterable[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(rows: Iterable[Iterable[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


def tabs(rows: Iterable[Iterable[str]]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)


def quiz(number: int) -> dict[str, Any]:
    answer = {"Value": f"Answer {number}", "Aliases": [f"Answer {number}", f"The {number}th"]}
    return {"Question": f"What is {number}?", "QuestionId": f"q{number}", "Answer": answer}


def article(number: int) -> dict[str, Any]:
    return {
        "article": f"Story {number}.",
        "questions": ["Who came?", "It was _ ."],
        "options": [["Ann", "Bob", "Cy", "Di"], ["cold", "hot", "wet", "dry"]],
        "answers": ["B", "D"],
        "id": f"{number}.txt",
    }


def exam(subject: str, count: int) -> str:
    return table(
        [f'{subject} "{n}"\nhow?', "w", "x", "y", "z", "ABCD"[n % 4]] for n in range(count)
    )


def problem(number: int) -> dict[str, Any]:
    solution = f"We get $\\boxed{{\\frac{{{number}}}{{7}}}}$."
    return {
        "problem": f"Half of {number}?",
        "level": "Level 1",
        "type": "Algebra",
        "solution": solution,
    }


def function(number: int) -> dict[str, Any]:
    name = f"f{number}"
    return {
        "task_id": f"HumanEval/{number}",
        "prompt": f'def {name}(x):\n    """Add {number}."""\n',
        "entry_point": name,
        "canonical_solution": f"    return x + {number}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {number + 1}\n",
    }


def program(number: int) -> dict[str, Any]:
    return {
        "text": f"Add {number}.",
        "code": f"def g(x):\r\n    return x + {number}",
        "task_id": number,
        "test_setup_code": "",
        "test_list": [f"assert g(1) == {number + 1}"],
        "challenge_test_list": [],
    }


def toxic(text: str) -> dict[str, Any]:
    return {"filename": "a", "prompt": {"text": text, "toxicity": 0.1}, "continuation": {}}


SENTENCES = [
    [f"{job}.{who}.{answer}.{gender}.txt", sentence.replace("$", pronoun)]
    for job, answer, sentence, pronouns in (
        ("nurse", "1", "The nurse told @ that $ could go.", "he she they"),
        ("nurse", "0", "The nurse told @ about $ shift.", "his her their"),
        ("pilot", "1", "The pilot told @ that $ could go.", "he she they"),
        ("pilot", "0", "The pilot told @ about $ shift.", "his her their"),
    )
    for who in ("guest", "someone")
    for gender, pronoun in zip(("male", "female", "neutral"), pronouns.split(), strict=True)
]
TEMPLATES = [
    [job, "guest", answer, sentence]
    for job in ("nurse", "pilot")
    for answer, sentence in (
        ("1", "The $OCCUPATION told the $PARTICIPANT that $NOM_PRONOUN could go."),
        ("0", "The $OCCUPATION told the $PARTICIPANT about $POSS_PRONOUN shift."),
    )
]

FILES: dict[str, str] = {
    "boolq/dev.jsonl": lines(
        {"question": f"is {n} it", "title": "T", "answer": n == 0, "passage": "It is."}
        for n in range(2)
    ),
    "piqa/valid.jsonl": lines({"goal": f"g{n}", "sol1": "eat it", "sol2": "go"} for n in range(2)),
    "piqa/valid-labels.lst": "0\n1\n",
    "siqa/dev.jsonl": lines(
        {
            "context": "Al fell.",
            "question": f"Why {n}?",
            "answerA": "a",
            "answerB": "bb",
            "answerC": "c",
        }
        for n in range(3)
    ),
    "siqa/dev-labels.lst": "1\n2\n3\n",
    "hellaswag/hellaswag_val.jsonl": lines(
        {
            "ind": n,
            "activity_label": "Cooking",
            "ctx_a": "[header] How to cook [title] Take a pan.",
            "ctx_b": "then",
            "ctx": "",
            "endings": ["[step] it burns.", "he eats.", "she goes.", "all is well."],
            "label": n,
        }
        for n in range(4)
    ),
    "winogrande/dev.jsonl": lines(
        {
            "qID": f"w{n}",
            "sentence": "Al met Bo, and _ ran.",
            "option1": "Al",
            "option2": "Bo",
            "answer": str(n),
        }
        for n in (1, 2)
    ),
    "arc_easy/ARC-Easy-Test.jsonl": lines([science("a", "ABCD", "C"), science("b", "12345", "5")]),
    "arc_challenge/ARC-Challenge-Test.jsonl": lines([science("a", "ABC", "A")]),
    "openbookqa/test.jsonl": lines([science("a", "ABCD", "D"), science("b", "ABCD", "A")]),
    "nq_open/NQ-open.dev.jsonl": lines(
        {"question": f"who is {n}", "answer": [f"The {n}th", f"Mr. {n}"]} for n in range(9)
    ),
    "triviaqa/qa/web-dev.json": json.dumps({"Data": [quiz(1), quiz(2)]}),
    "triviaqa/qa/wikipedia-dev.json": json.dumps({"Data": [quiz(2), quiz(3)]}),
    "triviaqa/qa/web-train.json": json.dumps({"Data": [quiz(n) for n in range(10, 80)]}),
    "race/RACE/test/middle/1.txt": json.dumps(article(1)),
    "race/RACE/test/middle/2.txt": json.dumps(article(2)),
    "race/RACE/test/high/3.txt": json.dumps(article(3)),
    "math/test/algebra/1.json": json.dumps(problem(1)),
    "math/test/algebra/2.json": json.dumps(problem(14)),
    "gsm8k/train.jsonl": lines(
        {
            "question": f"{n} and {n}?",
            "answer": f"It is {n}+{n}=<<{n}+{n}={2 * n}>>{2 * n}.\n#### {2 * n}",
        }
        for n in range(9)
    ),
    "gsm8k/test.jsonl": lines(
        {"question": f"{n} plus 1,000?", "answer": f"So.\n#### {1000 + n:,}"} for n in range(2)
    ),
    "mbpp/mbpp.jsonl": lines(program(n) for n in range(1, 14)),
    "mmlu/dev/anatomy_dev.csv": exam("anatomy dev", 5),
    "mmlu/dev/astronomy_dev.csv": exam("astronomy dev", 5),
    "mmlu/test/anatomy_test.csv": exam("anatomy", 3),
    "mmlu/test/astronomy_test.csv": exam("astronomy", 2),
    "realtoxicityprompts/prompts.jsonl": lines([toxic("They said"), toxic("He went")]),
    "crows_pairs/crows_pairs_anonymized.csv": table(
        [
            ["", "sent_more", "sent_less", "stereo_antistereo", "bias_type", "annotations"],
            ["0", "The poor are bad.", "The rich are bad.", "stereo", "socioeconomic", "[]"],
            ["1", "He is a boss.", "She is a boss.", "antistereo", "gender", "[]"],
        ]
    ),
    "winogender/all_sentences.tsv": tabs(
        [["sentid", "sentence"], *([i, s.replace("@", "the guest")] for i, s in SENTENCES)]
    ),
    "winogender/templates.tsv": tabs(
        [["occupation(0)", "other-participant(1)", "answer", "sentence"], *TEMPLATES]
    ),
    "winogender/occupations-stats.tsv": tabs(
        [
            ["occupation", "bergsma_pct_female", "bls_pct_female", "bls_year"],
            ["nurse", "90.1", "89.4", "2015"],
            ["pilot", "5.0", "6.5", "2015"],
        ]
    ),
    "truthfulqa/TruthfulQA.csv": "\ufeff"
    + table(
        [
            [
                "Type",
                "Category",
                "Question",
                "Best Answer",
                "Correct Answers",
                "Incorrect Answers",
                "Source",
            ],
            ["A", "Myths", "Is it?", "It is not", "No; It is not.", "Yes; It is", "x"],
            ["A", "Law", "May I?", "You may", "You may; Yes", "You may not", "x"],
        ]
    ),
}
ZIPPED = {"humaneval/HumanEval.jsonl.gz": lines([function(0), function(1)])}


def write_benchmarks(directory: Path) -> Path:
    """Write all of them beside each other."""
    for name, text in {**FILES, **ZIPPED}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = text.encode()
        path.write_bytes(gzip.compress(data) if name in ZIPPED else data)
    return directory


def knows(request: Request, solutions: dict[str, str]) -> Response:
    """Answer as one who knows: the right choice, words, number or program."""
    kind, gold = TASKS[request.task].kind, request.gold
    if isinstance(kind, Truths):
        return scored(request, [0.0 if at < gold else -900.0 for at in range(len(request.pairs))])
    if isinstance(kind, Choice):
        count = len(request.pairs) // (2 if kind.normalize == "prior" else 1)
        return scored(
            request, [-1.0 if at == gold else -900.0 for at in range(count)] + [-5.0] * count
        )
    if isinstance(kind, Words):
        return completed(request, f" {gold[-1]}.\nQ: more")
    if isinstance(kind, Reasoning):
        end = f"The answer is {gold}." if "gsm8k" in request.task else ""
        return completed(
            request, end or f" So $x$.\nFinal Answer: The final answer is ${gold}$. I hope"
        )
    if isinstance(kind, Programs):
        return completed(request, solutions[request.id])
    assert isinstance(kind, Judged)
    return completed(request, " kind words")


def never(request: Request, solutions: dict[str, str]) -> Response:
    """Answer as one who is always wrong."""
    kind, gold = TASKS[request.task].kind, request.gold
    if isinstance(kind, Truths):
        return scored(request, [-900.0 if at < gold else 0.0 for at in range(len(request.pairs))])
    if isinstance(kind, Choice):
        count = len(request.pairs) // (2 if kind.normalize == "prior" else 1)
        return scored(
            request, [-900.0 if at == gold else -1.0 for at in range(count)] + [-5.0] * count
        )
    return completed(request, "    pass" if isinstance(kind, Programs) else " 00.5 or so, I think")


def scored(request: Request, logprobs: list[float]) -> Response:
    pairs = len(request.pairs)
    return Response(request, "planted", logprobs=logprobs[:pairs], tokens=[1] * pairs, bos=True)


def completed(request: Request, text: str) -> Response:
    return Response(request, "planted", completions=[text] * request.samples, bos=True)


def solutions(directory: Path, task: str) -> dict[str, str]:
    """Give the reference programs of a task by the id of their rows."""
    if not task.startswith(("humaneval", "mbpp")):
        return {}
    rows = (row for _, _, row in Data([directory]).rows(TASKS[task]))
    return {str(row["task_id"]): row.get("canonical_solution") or row["code"] for row in rows}


def mark(response: Response) -> Graded:
    """Grade one response."""
    return next(grade([response]))


def requests(directory: Path, task: str, **setting: Any) -> list[Request]:
    return list(render(TASKS[task], Data([directory]), Setting(**setting)))


def run(
    directory: Path,
    task: str,
    answer: Callable[[Request, dict[str, str]], Response],
    tools: Tools | None = None,
    **setting: Any,
) -> list[Score]:
    """Take a task through every stage with a planted model."""
    known = solutions(directory, task)
    responses = (answer(request, known) for request in requests(directory, task, **setting))
    return list(summarise(grade(responses, tools)))

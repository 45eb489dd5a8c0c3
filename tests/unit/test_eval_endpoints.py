"""A model behind an HTTP endpoint, and a program as a model."""

from __future__ import annotations

import shlex
import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llama_cli.errors import LlamaError
from llama_cli.evaluation.models import openai
from llama_cli.evaluation.models.answering import Answering
from llama_cli.evaluation.models.command import Command, files_of
from llama_cli.evaluation.models.local import Local
from llama_cli.evaluation.models.openai import OpenAI
from llama_cli.evaluation.models.store import Store
from llama_cli.evaluation.request import Request, Response
from llama_cli.inference.backend import take_over
from llama_cli.inference.engine import Engine, Settings
from llama_cli.records import Prompt
from tests.endpoint import Endpoint, serving
from tests.tiny import tiny_model, tiny_tokenizer

NOUNS = ("cat", "table", "garden", "river")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(take_over(tiny_model()), tiny_tokenizer())


@pytest.fixture
def endpoint(engine: Engine) -> Iterator[Endpoint]:
    with serving(Endpoint(engine)) as served:
        yield served


def score(number: int, *pairs: tuple[str, str]) -> Request:
    return Request(task="t", id=str(number), kind="score", gold=0, pairs=pairs)


def complete(number: int, prompt: str, **how: Any) -> Request:
    how = {"max_tokens": 6, **how}
    return Request(task="g", id=str(number), kind="complete", gold="", prompt=prompt, **how)


def scored() -> list[Request]:
    return [
        score(n, (f"The {noun} opens the", " cat"), (f"Q: {noun}\nA: ", "the river"), ("A:", " no"))
        for n, noun in enumerate(NOUNS)
    ]


class Waits:
    """What an endpoint's client would have slept."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def asking(endpoint: Endpoint, **options: Any) -> Answering[None]:
    options = {"sleep": Waits(), **options}
    return Answering(OpenAI(endpoint.url, "tiny", **options))


# -- an endpoint --


@pytest.mark.parametrize("least", [0, 1])
def test_an_endpoint_scores_as_the_model_behind_it(endpoint: Endpoint, least: int) -> None:
    endpoint.least = least
    here = list(Answering(Local(endpoint.engine))(scored()))
    there = list(asking(endpoint)(scored()))
    for one, other in zip(here, there, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert one.tokens == list(other.tokens)
    assert {call["max_tokens"] for call in endpoint.calls[-12:]} == {least}


def test_tokens_that_are_not_the_text_are_counted_from_the_context(endpoint: Endpoint) -> None:
    asked = [score(0, ("The cat opens", "\n한 table"))]
    (here,) = Answering(Local(endpoint.engine))(asked)
    (there,) = asking(endpoint)(asked)
    assert here.logprobs == pytest.approx(there.logprobs, abs=1e-4)
    assert [call["prompt"] for call in endpoint.calls] == [
        "The cat opens\n한 table",
        "The cat opens",
    ]


def test_a_continuation_that_is_the_likeliest_is_said_to_be(endpoint: Endpoint) -> None:
    encode = endpoint.engine.tokenizer.encode
    prompts = [Prompt(noun, f"The {noun} opens") for noun in NOUNS]
    made = endpoint.engine.generate(prompts, Settings(max_tokens=1, temperature=0))
    pairs = [
        (each.prompt, each.completion)
        for each in made
        if encode(each.prompt + each.completion) == [*encode(each.prompt), *each.tokens]
    ]
    (told,) = asking(endpoint)([score(0, *pairs, (pairs[0][0], " zzz"))])
    assert list(told.greedy) == [*[True] * len(pairs), False]


def test_an_endpoint_completes_as_the_model_behind_it(endpoint: Endpoint) -> None:
    asked = [complete(n, f"The {noun}", stop=["."], samples=2) for n, noun in enumerate(NOUNS)]
    here = [each.completions for each in Answering(Local(endpoint.engine))(asked)]
    assert [list(each.completions) for each in asking(endpoint)(asked)] == here
    assert {call["n"] for call in endpoint.calls} == {1}  # greedy ones are all the same


@pytest.mark.parametrize("said", [{}, {"choices": []}, {"choices": [None]}, {"choices": 1}, []])
def test_an_answer_in_another_form_is_told(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, said: object
) -> None:
    monkeypatch.setattr(Endpoint, "complete", lambda *_: said)
    with pytest.raises(LlamaError, match="not in the form of OpenAI's"):
        list(asking(endpoint)(scored()[:1]))


def test_an_endpoint_with_one_model_needs_no_name(endpoint: Endpoint) -> None:
    (told,) = Answering(OpenAI(endpoint.url, ""))([complete(0, "The cat")])
    assert "model" not in endpoint.calls[0]
    assert told.model == endpoint.url


def test_samples_are_drawn_with_the_rows_own_seed(endpoint: Endpoint) -> None:
    asked = complete(0, "The cat", temperature=0.8, top_p=0.9, samples=3, seed=5)
    (told,) = asking(endpoint)([asked])
    assert len(set(told.completions)) == 3
    sent = endpoint.calls[0]
    assert (sent["n"], sent["seed"], sent["temperature"], sent["top_p"]) == (3, 5, 0.8, 0.9)


def test_more_stops_than_an_endpoint_takes_are_cut_here(endpoint: Endpoint) -> None:
    (whole,) = next(Answering(Local(endpoint.engine))([complete(0, "The cat")])).completions
    stops = ["\x01", "\x02", "\x03", "\x04", whole[3]]
    (told,) = asking(endpoint)([complete(0, "The cat", stop=stops)])
    assert told.completions == [whole[: whole.index(whole[3])]]
    assert endpoint.calls[0]["stop"] == stops[:4]


def test_a_busy_endpoint_is_asked_again_later_each_time(endpoint: Endpoint) -> None:
    endpoint.faults = deque([(503, {}), (429, {}), (500, {})])
    waits, words = Waits(), list[str]()
    assert len(list(asking(endpoint, sleep=waits, say=words.append)(scored()[:1]))) == 1
    assert waits.seconds == [1, 2, 4]
    assert words[1] == f"{endpoint.url}/completions: 429 not now; again in 2 s"


def test_an_endpoint_that_says_when_is_asked_then(endpoint: Endpoint) -> None:
    endpoint.faults = deque(
        [
            (429, {"Retry-After": "7"}),
            (503, {"Retry-After": "Fri, 01 Jan 2038 00:00:00 GMT"}),
            (503, {"Retry-After": "soon"}),
        ]
    )
    waits = Waits()
    list(asking(endpoint, sleep=waits)(scored()[:1]))
    assert waits.seconds[0] == 7
    assert waits.seconds[1] > 3e8
    assert waits.seconds[2] == 4


def test_a_call_that_hangs_is_made_again(endpoint: Endpoint) -> None:
    endpoint.hang = 1
    words: list[str] = []
    assert len(list(asking(endpoint, timeout=0.3, say=words.append)(scored()[:1]))) == 1
    assert words[0] == f"{endpoint.url}/completions: no answer in 0.3 s; again in 1 s"


def test_an_endpoint_that_stays_broken_is_given_up_in_one_line(endpoint: Endpoint) -> None:
    endpoint.faults = deque([(500, {})] * 99)
    with pytest.raises(LlamaError, match="completions: 500 not now, 8 times"):
        list(asking(endpoint)(scored()))


def test_no_endpoint_at_all_is_one_line() -> None:
    model = OpenAI("http://127.0.0.1:9/v1", "tiny", sleep=Waits())
    what = r"^http://127.0.0.1:9/v1/completions: no connection: Connection refused, 8 times"
    with pytest.raises(LlamaError, match=what):
        list(Answering(model)(scored()))


def test_a_wait_of_many_calls_is_told_once() -> None:
    words: list[str] = []
    model = OpenAI("http://127.0.0.1:9/v1", "tiny", say=words.append, sleep=Waits())
    with pytest.raises(LlamaError):
        list(Answering(model)(scored() * 4))
    assert words[0].endswith(": Connection refused; again in 1 s")
    assert all(one != other for one, other in pairwise(words))


def test_a_refusal_is_told_at_once_with_what_was_said(endpoint: Endpoint) -> None:
    endpoint.token = "secret"
    with pytest.raises(LlamaError, match=r"g 0: 401 .*who are you"):
        list(asking(endpoint)([complete(0, "The cat")]))
    assert len(endpoint.calls) == 1
    assert len(list(asking(endpoint, token="secret")([complete(0, "The cat")]))) == 1


def test_an_endpoint_without_logprobs_of_prompts_completes_only(endpoint: Endpoint) -> None:
    endpoint.scores = False
    with pytest.raises(LlamaError, match="t 0: no logprobs of a prompt, so it completes"):
        list(asking(endpoint)(scored()))


def test_calls_are_made_in_parallel_and_answers_come_in_order(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "AHEAD", 1)
    endpoint.hang = 1  # the first of them
    asked = [complete(n, f"The {noun}") for n, noun in enumerate(NOUNS)]
    told = list(asking(endpoint, timeout=1, parallel=4)(asked))
    assert [each.request.id for each in told] == ["0", "1", "2", "3"]
    assert len({call["prompt"] for call in endpoint.calls[:4]}) == 4


def test_what_an_endpoint_has_answered_is_not_asked_again(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    def store() -> Store:
        return Store.open(tmp_path, {"endpoint": "here"}, print)

    model = OpenAI(endpoint.url, "tiny")
    first = [each.to_json() for each in Answering(model, store=store())(scored()[:2])]
    calls = len(endpoint.calls)
    again = [each.to_json() for each in Answering(model, store=store())(scored()[:3])]
    assert again[:2] == first
    assert {call["prompt"] for call in endpoint.calls[calls:]} == {
        context + rest for context, rest in scored()[2].pairs
    }


# -- a program --

ECHO = """
import json, sys
for line in {lines}:
    request = json.loads(line)
    print(json.dumps({{"request": request, "logprobs": [-1.0 * len(b) for a, b in request["pairs"]],
        "completions": [request["prompt"]] * (request["kind"] == "complete")}}), flush={flush})
"""


def program(folder: Path, source: str) -> str:
    path = folder / "model.py"
    path.write_text(source)
    return shlex.join([sys.executable, "-S", str(path)])


@pytest.mark.parametrize(
    ("lines", "flush"), [("sys.stdin", True), ("sys.stdin", False), ("sys.stdin.readlines()", True)]
)
def test_a_program_may_answer_each_line_or_read_all_first(
    tmp_path: Path, lines: str, flush: bool
) -> None:
    line = program(tmp_path, ECHO.format(lines=lines, flush=flush))
    asked = [*scored(), complete(9, "x" * 100_000)]  # more than a pipe holds
    told = list(Answering(Command(line))(asked))
    assert [each.request for each in told] == asked
    assert told[0].logprobs == [-4, -9, -3]
    assert (told[-1].completions, told[-1].model) == (["x" * 100_000], f"!{line}")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise SystemExit(3)", r"ended with 3, and row 0 is not answered"),
        (
            "print('Loading model ...')",
            r"line 1: not a response \(not JSON: unexpected .*\): Loading model \.\.\.",
        ),
        ("import os; os.kill(os.getpid(), 9)", r"ended with -?\d+, and row 0"),
        ("print('{}')", r"line 1: not a response \(a response has its request\): \{\}"),
        (
            ECHO.format(lines="sys.stdin.readlines()[::-1]", flush=True),
            r"line 1: t 3 is answered where t 0 was asked",
        ),
        (
            ECHO.format(lines="sys.stdin", flush=True).replace("[-1.0 *", "[1][:0] and [-1.0 *"),
            r"line 1: 0 logprobs where 3 are wanted",
        ),
        (
            ECHO.format(lines="sys.stdin", flush=True).replace("-1.0 * len(b)", "None"),
            r"line 1: not a response \('logprobs' is a list of numbers, not \[None",
        ),
        (ECHO.format(lines="sys.stdin", flush=True) + "print('x')", "more than the 4 responses"),
        (ECHO.format(lines="sys.stdin", flush=True) + "sys.exit(5)", "ended with 5"),
    ],
)
def test_a_program_that_fails_is_one_clear_line(tmp_path: Path, source: str, words: str) -> None:
    with pytest.raises(LlamaError, match=words) as caught:
        list(Answering(Command(program(tmp_path, source)))(scored()))
    assert "\n" not in str(caught.value)


def test_an_error_in_the_requests_is_raised_where_they_are_answered(tmp_path: Path) -> None:
    def broken() -> Iterator[Request]:
        yield scored()[0]
        raise LlamaError("no more rows")

    line = program(tmp_path, ECHO.format(lines="sys.stdin", flush=True))
    with pytest.raises(LlamaError, match="no more rows"):
        list(Answering(Command(line))(broken()))


def test_a_program_is_known_by_its_line_and_the_files_it_names(tmp_path: Path) -> None:
    line = program(tmp_path, "")
    assert files_of(line) == [Path(sys.executable), tmp_path / "model.py"]
    assert files_of("no-such-program --fast 1") == []


def test_a_program_is_not_left_behind(tmp_path: Path) -> None:
    late = tmp_path / "late"
    source = f"print('no'); import time; time.sleep(0.5); open({str(late)!r}, 'w')"
    with pytest.raises(LlamaError):
        list(Answering(Command(program(tmp_path, source)))(scored()))
    time.sleep(0.7)
    assert not late.exists()


def test_a_response_of_a_program_keeps_the_request_that_was_made(tmp_path: Path) -> None:
    source = ECHO.format(lines="sys.stdin", flush=True).replace(
        '"request": request',
        '"request": {{**request, "gold": 1, "pairs": []}}'.replace("{{", "{").replace("}}", "}"),
    )
    (told,) = Answering(Command(program(tmp_path, source)))(scored()[:1])
    assert isinstance(told, Response)
    assert told.request == scored()[0]

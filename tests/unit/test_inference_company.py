"""What a completion owes to its company: speed, and not a bit of what is said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from llama_cli.inference.alike import BLOCK
from llama_cli.inference.engine import Engine, Request, Settings
from llama_cli.records import Prompt
from tests.tiny import run_on, tiny_model
from tests.unit.test_inference_engine import TEXTS, counted, engine, made, prompts

__all__ = ["engine"]  # a fixture


def ends(engine: Engine, texts: Sequence[str] = TEXTS, **changes: Any) -> list[tuple[Any, ...]]:
    """Complete, and give all that must not depend on the company a prompt is in, by id."""
    made = engine.generate(prompts(texts), replace(Settings(max_tokens=20), **changes))
    return [(each.id, each.tokens, each.logprobs, each.finish) for each in made]


MIXED = [*TEXTS, *("The cat opens the river. " * n for n in (1, 2, 3)), *TEXTS]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    tiny_model()  # which sets them
    run_on(request.param)
    yield request.param
    run_on(1)


@pytest.mark.parametrize("backend", ["kernel", "pytorch"])
@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_a_completion_is_the_same_bits_in_any_company(
    backend: str, quantize: bool, temperature: float, threads: int
) -> None:
    engine = made(backend, quantize=quantize)
    run_on(threads)
    alone = ends(engine, MIXED, temperature=temperature, batch=1, ahead=1)
    for batch in (2, 3, 16):
        assert ends(engine, MIXED, temperature=temperature, batch=batch) == alone
    given = list(enumerate(MIXED))
    other = [Prompt(str(number), text) for number, text in reversed(given)]
    settings = Settings(max_tokens=20, temperature=temperature, batch=4)
    turned = [(e.id, e.tokens, e.logprobs, e.finish) for e in engine.generate(other, settings)]
    assert turned[::-1] == alone


@pytest.mark.parametrize("backend", ["kernel", "pytorch"])
@pytest.mark.parametrize("quantize", [False, True])
def test_a_completion_is_the_same_bits_on_any_number_of_threads(
    backend: str, quantize: bool
) -> None:
    found = []
    for threads in (1, 2, 5):
        engine = made(backend, quantize=quantize, deterministic=True)
        run_on(threads)
        try:
            found.append(ends(engine, MIXED))
        finally:
            run_on(1)
    assert found[0] == found[1] == found[2]


def test_a_beginning_that_prompts_share_is_computed_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins = " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"
    texts = [f"{begins} The {noun}" for noun in ("cat", "window", "answer", "river")]
    lengths = [len(engine.tokenizer.encode(text)) for text in texts]
    alike = len(engine.tokenizer.encode(f"{begins} The"))
    assert alike > 2 * BLOCK
    computed = counted(engine, monkeypatch)
    together = ends(engine, texts, max_tokens=1, temperature=0)
    assert sum(computed) == sum(lengths) - 3 * (alike // BLOCK * BLOCK)
    assert together == ends(engine, texts, max_tokens=1, temperature=0, batch=1, ahead=1)


def test_a_row_that_ends_makes_room_for_another(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two long rows and four short ones, two at a time: the short ones pass through one place."""
    steps = counted(engine, monkeypatch, "pieces")
    wanted = [(20, "0"), (5, "1"), (5, "2"), (5, "3"), (5, "4")]
    requests = [
        Request(Prompt(name, "The cat"), Settings(max_tokens=count, temperature=0))
        for count, name in wanted
    ]
    made = list(engine.answer(requests, batch=2, ahead=8))
    assert [(each.id, len(each.tokens)) for each in made] == [(n, c) for c, n in wanted]
    assert steps == [2] * 20

"""A model of ours as what answers requests: texts to tokens, and tokens to numbers."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from llama_cli.errors import LlamaError
from llama_cli.evaluation.data import Data
from llama_cli.evaluation.encode import encode_pair, fit_pair, windows
from llama_cli.evaluation.grade import grade
from llama_cli.evaluation.models.answering import Answering
from llama_cli.evaluation.models.local import Local
from llama_cli.evaluation.render import Setting, render
from llama_cli.evaluation.request import Request
from llama_cli.evaluation.tasks import TASKS
from llama_cli.inference.backend import take_over
from llama_cli.inference.engine import Engine
from llama_cli.records import Document
from tests.tiny import CONFIG, tiny_model, tiny_tokenizer

BITS = TASKS["bits_per_byte"]


def local(engine: Engine, **options: Any) -> Answering[Any]:
    return Answering(Local(engine, **options))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(take_over(tiny_model()), tiny_tokenizer())


# -- tokens --


def test_context_and_continuation_are_cut_where_the_context_ends() -> None:
    tokenizer = tiny_tokenizer()
    given, scored = encode_pair(tokenizer, "The cat", " opens")
    assert given == tokenizer.encode("The cat")
    assert given + scored == tokenizer.encode("The cat opens")
    assert given[0] == tokenizer.bos


def test_trailing_spaces_of_the_context_go_with_the_continuation() -> None:
    tokenizer = tiny_tokenizer()
    given, scored = encode_pair(tokenizer, "The cat ", "opens")
    assert (given, scored) == encode_pair(tokenizer, "The cat", " opens")


def test_an_empty_context_is_the_begin_mark() -> None:
    given, scored = encode_pair(tiny_tokenizer(), "", "The")
    assert (given, scored) == ([1], tiny_tokenizer().encode("The", bos=False))


def test_a_pair_that_fits_is_left_alone() -> None:
    assert fit_pair(([1, 5, 6], [7, 8]), 4) == ([1, 5, 6], [7, 8])


def test_a_pair_one_too_long_loses_the_token_after_the_begin_mark() -> None:
    assert fit_pair(([1, 5, 6], [7, 8]), 3) == ([1, 6], [7, 8])


def test_a_continuation_may_leave_room_for_the_begin_mark_alone() -> None:
    assert fit_pair(([1, 5, 6], [7, 8]), 2) == ([1], [7, 8])
    with pytest.raises(ValueError, match="2 tokens to score do not fit a context of 1"):
        fit_pair(([1, 5, 6], [7, 8]), 1)


@pytest.mark.parametrize("length", [1, 2, 4, 5, 6, 8, 9, 10, 23])
def test_windows_score_each_token_once_and_fit(length: int) -> None:
    ids = [1, *range(100, 100 + length)]
    pairs = list(windows(ids, 4))
    assert [token for _, scored in pairs for token in scored] == ids[1:]
    assert all(given and len(given) + len(scored) <= 5 for given, scored in pairs)
    for given, scored in pairs:  # each context is what stands before
        at = ids.index(scored[0])
        assert ids[at - len(given) : at] == given


def test_the_last_window_reaches_back_to_be_full() -> None:
    assert list(windows([1, 2, 3, 4, 5, 6], 4))[-1] == ([2, 3, 4, 5], [6])


# -- with a model --


def score(*pairs: tuple[str, str]) -> Request:
    return Request("piqa", "0", "score", 0, pairs=pairs)


def test_each_choice_is_scored_after_its_prompt(engine: Engine) -> None:
    request = score(("The cat", " opens the table."), ("The cat", " holds"))
    found = next(local(engine, name="tiny")([request]))
    pairs = [encode_pair(engine.tokenizer, *pair) for pair in request.pairs]
    assert found.logprobs == pytest.approx(engine.loglikelihood(pairs), abs=1e-4)
    assert found.tokens == [len(scored) for _, scored in pairs]
    assert (found.request, found.model, found.truncated, found.bos) == (
        request,
        "tiny",
        False,
        True,
    )


def test_responses_do_not_depend_on_the_batch(engine: Engine) -> None:
    asked = [
        replace(score(("The cat" * (n % 4), " opens" * (1 + n % 3)), ("The", " holds")), id=str(n))
        for n in range(20)
    ]
    asked[7] = Request("nq_open", "7", "complete", [], prompt="The cat", max_tokens=3)
    one, many = (list(local(engine, batch=batch)(asked)) for batch in (1, 7))
    assert [each.request for each in one] == asked
    for left, right in zip(one, many, strict=True):
        assert left.logprobs == pytest.approx(right.logprobs, abs=1e-4)
        assert left.completions == right.completions


def test_a_prompt_that_is_too_long_loses_its_beginning_and_says_so(engine: Engine) -> None:
    long = "The cat finds the " * 40
    assert next(local(engine)([score((long, " table"), (long, " cat"))])).truncated
    request = Request("nq_open", "0", "complete", [], prompt=long, max_tokens=5)
    found = next(local(engine)([request]))
    assert found.truncated
    assert found.completions != [""]


def test_a_choice_that_is_too_long_is_an_error(engine: Engine) -> None:
    with pytest.raises(LlamaError, match="do not fit a context of 64"):
        list(local(engine)([score(("The", " cat" * 100))]))


def test_samples_of_a_prompt_are_together_and_end_where_asked(engine: Engine) -> None:
    asked = [
        Request(
            "gsm8k@100", str(n), "complete", "1",
            prompt=f"The cat {n}", max_tokens=8, samples=3, temperature=1.0, stop=("e",),
        )
        for n in range(3)
    ]  # fmt: skip
    found = list(local(engine, batch=2)(asked))
    alone = [next(local(engine, batch=1)([request])).completions for request in asked]
    assert [each.completions for each in found] == alone
    assert all(len(texts) == 3 and not any("e" in text for text in texts) for texts in alone)


def test_a_uniform_model_spends_log2_of_its_pieces_a_token() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.output.weight.zero_()
    text = "The cat opens the table. " * 20  # longer than the context
    data = Data(read=lambda: [Document("a", text, "files"), Document("b", "é", "files")])
    asked = render(BITS, data, Setting())
    long, short = grade(local(Engine(take_over(model), tiny_tokenizer()), batch=2)(asked))
    assert long.meta["tokens"] == len(tiny_tokenizer().encode(text, bos=False)) > CONFIG.context
    bits = long.meta["tokens"] * math.log2(CONFIG.vocab_size)
    assert long.values["bits"] == pytest.approx(bits, rel=1e-5)
    assert (long.values["bytes"], short.values["bytes"]) == (len(text), 2)


def test_an_empty_document_has_no_bits(engine: Engine) -> None:
    data = Data(read=lambda: [Document("b", "", "files")])
    found = next(grade(local(engine)(render(BITS, data, Setting()))))
    assert (found.values["bits"], found.values["bytes"], found.meta["tokens"]) == (0, 0, 0)

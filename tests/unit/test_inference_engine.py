"""Completing: the same for every batch, and as without a cache."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal
from unittest.mock import patch

import pytest
import torch

from llama_cli.errors import LlamaError
from llama_cli.inference.backend import take_over
from llama_cli.inference.engine import Engine, Request, Settings
from llama_cli.model.config import ModelConfig
from llama_cli.model.transformer import Transformer, init_weights
from llama_cli.records import Completion, Prompt, Timings
from tests.tiny import CONFIG, tiny_model, tiny_tokenizer

GREEDY = Settings(max_tokens=12, temperature=0)
TEXTS = ["The cat", "The cat opens the river. The", "", "Ünï 12", "The table holds the"]


def made(backend: str = "kernel", model: Transformer | None = None, **how: bool) -> Engine:
    """Run the tiny model by the processor's kernel, or by PyTorch as where there is none."""
    model = model or tiny_model()
    with patch("llama_cli.kernels.host.available", return_value=backend == "kernel"):
        return Engine(take_over(model, **how), tiny_tokenizer())


@pytest.fixture(scope="module", params=["kernel", "pytorch"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return made(request.param)


def prompts(texts: Sequence[str] = TEXTS) -> list[Prompt]:
    return [Prompt(str(number), text) for number, text in enumerate(texts)]


def complete(engine: Engine, settings: Settings, texts: Sequence[str] = TEXTS) -> list[Completion]:
    return list(engine.generate(prompts(texts), settings))


def by_full_passes(engine: Engine, ids: list[int], count: int) -> list[int]:
    ids = list(ids)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(tiny_model()(torch.tensor([ids]))[0, -1].argmax()))
    return ids[-count:]


def naming(engine: Engine, *pieces: int) -> Engine:
    """Make a model that says `pieces` in turn, whatever the prompt."""
    model = tiny_model()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        for weight in (model.norm.weight, *model.parameters()):
            if weight.dim() == 1:
                weight.fill_(1.0)
        # token t is embedded as axis t % dim, and each axis votes for what follows it
        for token in range(model.config.vocab_size):
            model.tok_embeddings.weight[token, 0] = 1.0
        follows = [(None, pieces[0]), *pairwise(pieces)]
        for axis, (before, after) in enumerate(follows):
            if before is not None:
                model.tok_embeddings.weight[before] = 0.0
                model.tok_embeddings.weight[before, axis] = 1.0
            model.output.weight[after, axis] = 10.0
    return Engine(take_over(model), engine.tokenizer)


def counted(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, what: Literal["tokens", "pieces"] = "tokens"
) -> list[int]:
    """Give a list that will have the number of tokens, or of rows' pieces, of each step."""
    numbers: list[int] = []
    kind = type(engine.network)
    states = kind.states

    def noted(self: Any, tokens: Any, pieces: Any, cache: Any) -> Any:
        numbers.append(len(tokens if what == "tokens" else pieces))
        return states(self, tokens, pieces, cache)

    monkeypatch.setattr(kind, "states", noted)
    return numbers


def test_prompts_read_before_an_error_are_completed_before_it_is_raised(engine: Engine) -> None:
    def failing() -> Iterator[Prompt]:
        yield from prompts()
        raise LlamaError("no more")

    completions, read = engine.generate(failing(), GREEDY), []
    with pytest.raises(LlamaError, match="no more"):
        read.extend(completions)
    assert read == complete(engine, GREEDY)


def test_the_cache_gives_what_a_full_pass_gives(engine: Engine) -> None:
    for completion in complete(engine, GREEDY):
        ids = engine.tokenizer.encode(completion.prompt)
        assert completion.tokens == by_full_passes(engine, ids, 12)


@pytest.mark.parametrize("settings", [GREEDY, Settings(max_tokens=12)])
def test_a_batch_gives_what_each_prompt_gives_alone(engine: Engine, settings: Settings) -> None:
    together = complete(engine, settings)
    alone = [next(engine.generate([prompt], settings)) for prompt in prompts()]
    assert [each.tokens for each in together] == [each.tokens for each in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_completions_come_in_the_order_of_the_prompts(engine: Engine) -> None:
    texts = [TEXTS[n % 5] for n in range(40)]
    settings = Settings(max_tokens=2, temperature=0, batch=2)
    assert [each.id for each in complete(engine, settings, texts)] == [str(n) for n in range(40)]


def test_a_prefill_in_pieces_gives_the_same(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = complete(engine, GREEDY)
    monkeypatch.setattr("llama_cli.inference.batch.FORWARD", 10)
    assert [each.tokens for each in complete(engine, GREEDY)] == [each.tokens for each in whole]


def test_logprobs_are_those_of_the_model_at_temperature_one(engine: Engine) -> None:
    completion = complete(engine, GREEDY, ["The cat"])[0]
    ids = engine.tokenizer.encode("The cat")
    with torch.inference_mode():
        logits = tiny_model()(torch.tensor([ids]))[0, -1]
    assert completion.logprobs[0] == pytest.approx(float(logits.log_softmax(-1).max()), abs=1e-5)


def test_the_seed_changes_what_is_drawn_and_nothing_else_does(engine: Engine) -> None:
    first, again, other = (complete(engine, Settings(seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert [each.tokens for each in first] != [each.tokens for each in other]


def test_the_end_mark_ends_a_completion_and_is_not_text(engine: Engine) -> None:
    the = engine.tokenizer.encode("The", bos=False)[0]
    said = complete(naming(engine, the, 2), GREEDY, [""])[0]
    assert (said.finish, said.completion, said.tokens) == ("eos", "The", [the, 2])
    assert len(said.logprobs) == 2


def test_a_stop_string_ends_a_completion_and_is_cut_off(engine: Engine) -> None:
    pieces = [engine.tokenizer.encode(text, bos=False)[-1] for text in (".", "?", "!")]
    speaker = naming(engine, *pieces)
    said = complete(speaker, Settings(temperature=0, stop=("?",)), ["The"])[0]
    assert (said.finish, said.completion, said.tokens) == ("stop", ".", pieces[:2])


def test_the_earliest_of_two_stop_strings_cuts(engine: Engine) -> None:
    pieces = [engine.tokenizer.encode(text, bos=False)[-1] for text in (".", "?", "!")]
    said = complete(naming(engine, *pieces), Settings(temperature=0, stop=("?!", ".?")), ["The"])[0]
    assert (said.finish, said.completion) == ("stop", "")


def test_a_completion_stops_at_the_context(engine: Engine) -> None:
    said = complete(engine, Settings(temperature=0, max_tokens=1000), ["The cat"])[0]
    prompt = engine.tokenizer.encode("The cat")
    assert said.finish == "length"
    assert len(prompt) + len(said.tokens) == CONFIG.context


def test_a_prompt_that_fills_the_context_gets_no_tokens_and_spoils_no_batch(engine: Engine) -> None:
    long, short = complete(engine, GREEDY, ["The cat opens the river. " * 30, "The cat"])
    assert (long.finish, long.completion, long.tokens) == ("length", "", [])
    assert short.tokens == complete(engine, GREEDY, ["The cat"])[0].tokens


def test_no_tokens_wanted_is_no_tokens(engine: Engine) -> None:
    said = complete(engine, Settings(max_tokens=0))[0]
    assert (said.finish, said.tokens) == ("length", [])


@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_adds_up_to_the_completion(engine: Engine, text: str) -> None:
    settings = Settings(max_tokens=40, stop=("w",))
    said = next(engine.generate([Prompt("x", text)], settings))
    assert "".join(engine.stream(Request(Prompt("x", text), settings))) == said.completion


def test_a_stream_continues_the_ids_of_a_prompt_not_its_text(engine: Engine) -> None:
    request = Request(Prompt("x", "The cat"), GREEDY, (5, 9, 30))
    (said,) = engine.answer([request], batch=1, ahead=1)
    assert "".join(engine.stream(request)) == said.completion
    assert said.completion != complete(engine, GREEDY)[0].completion


def test_a_stream_never_shows_what_a_stop_string_may_cut(engine: Engine) -> None:
    pieces = [engine.tokenizer.encode(text, bos=False)[-1] for text in (".", "?", "!")]
    settings = Settings(temperature=0, stop=("?!",))
    assert list(naming(engine, *pieces).stream(Request(Prompt("x", "The"), settings))) == ["."]


def test_a_stream_waits_for_all_bytes_of_a_character(engine: Engine) -> None:
    pieces = engine.tokenizer.encode("é", bos=False)[-2:]
    assert len(engine.tokenizer.decode(pieces)) == 1
    shown = list(naming(engine, *pieces, 2).stream(Request(Prompt("x", "The"), GREEDY)))
    assert shown == ["é"]


def test_a_stream_of_a_prompt_that_is_too_long_is_empty(engine: Engine) -> None:
    assert list(engine.stream(Request(Prompt("x", "The cat opens the river. " * 30), GREEDY))) == []


@pytest.mark.parametrize(
    "wrong",
    [{"max_tokens": -1}, {"temperature": -0.1}, {"batch": 0}, {"top_p": 1.1}, {"stop": ("",)}],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"which is below|a stop string is empty"):
        Settings(**wrong)


@pytest.mark.parametrize("pieces", [99, 400 + 1025])
def test_a_tokenizer_of_another_size_is_refused(pieces: int) -> None:
    model = Transformer(ModelConfig(dim=32, layers=1, heads=2, hidden=64, vocab_size=pieces))
    with pytest.raises(ValueError, match=f"the model has {pieces:,} pieces, its tokenizer 400"):
        Engine(take_over(model), tiny_tokenizer())


def test_pieces_that_no_tokenizer_has_are_never_said() -> None:
    model = Transformer(ModelConfig(dim=32, layers=1, heads=2, hidden=64, vocab_size=464)).eval()
    with torch.no_grad():
        model.output.weight[400:].fill_(9)  # and its negative: the likeliest, half of the time
        model.output.weight[432:].neg_()
    said = complete(Engine(take_over(model), tiny_tokenizer()), GREEDY)
    assert all(token < 400 for each in said for token in each.tokens)
    assert all(logprob <= 0 for each in said for logprob in each.logprobs)


@pytest.mark.parametrize("backend", ["kernel", "pytorch"])
def test_taking_a_model_over_changes_no_weight(backend: str) -> None:
    model = tiny_model()
    complete(made(backend, model), GREEDY)
    for one, other in zip(tiny_model().parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_samples_differ_and_the_first_is_what_one_alone_would_be(engine: Engine) -> None:
    three = list(engine.generate(prompts(["The"]), Settings(max_tokens=8, samples=3)))
    one = next(engine.generate(prompts(["The"]), Settings(max_tokens=8)))
    assert [each.sample for each in three] == [0, 1, 2]
    assert three[0].tokens == one.tokens
    assert len({tuple(each.tokens) for each in three}) == 3
    assert one.sample is None


def test_alternatives_are_the_likeliest_tokens_and_their_logprobs(engine: Engine) -> None:
    settings = Settings(max_tokens=3, temperature=0, logprobs=2)
    made = next(engine.generate(prompts(["The cat"]), settings))
    assert made.top_logprobs is not None
    assert [each[0] for each in made.top_logprobs] == [
        *zip(made.tokens, made.logprobs, strict=True)
    ]
    assert all(len(each) == 2 and each[0][1] >= each[1][1] for each in made.top_logprobs)


def test_an_echo_has_the_prompt_and_what_the_model_thinks_of_it(engine: Engine) -> None:
    ids = engine.tokenizer.encode(TEXTS[1])
    settings = Settings(max_tokens=2, temperature=0, echo=True, logprobs=1)
    made = next(engine.generate([Prompt("x", TEXTS[1])], settings))
    plain = next(engine.generate([Prompt("x", TEXTS[1])], GREEDY))
    assert made.completion.startswith(TEXTS[1])
    assert made.tokens == [*ids[1:], *plain.tokens[:2]]
    assert made.top_logprobs is not None
    assert len(made.logprobs) == len(made.tokens) == len(made.top_logprobs)
    prompt = made.logprobs[: len(ids) - 1]
    assert sum(prompt) == pytest.approx(engine.loglikelihood([(ids[:1], ids[1:])])[0], abs=1e-3)


def test_more_alternatives_than_there_are_tokens_are_all_of_them(engine: Engine) -> None:
    settings = Settings(max_tokens=1, temperature=0, echo=True, logprobs=1000)
    made = next(engine.generate(prompts(["The cat"]), settings))
    assert made.top_logprobs is not None
    assert [len(each) for each in made.top_logprobs] == [400] * len(made.tokens)


def test_a_spare_piece_of_the_model_is_no_alternative() -> None:
    model = Transformer(replace(tiny_model().config, vocab_size=408))
    init_weights(model, 0)
    made = next(
        Engine(take_over(model), tiny_tokenizer()).generate(
            prompts(["The cat"]), Settings(max_tokens=1, echo=True, logprobs=408)
        )
    )
    assert made.top_logprobs is not None
    assert {max(token for token, _ in each) for each in made.top_logprobs} == {399}


@pytest.mark.parametrize("backend", ["kernel", "pytorch"])
def test_a_token_is_as_likely_where_it_is_said_as_in_a_prompt(backend: str) -> None:
    """Both are parts of all that the model thinks of, its spare pieces too."""
    model = Transformer(replace(tiny_model().config, vocab_size=408))
    init_weights(model, 0)
    engine = made(backend, model)
    context = engine.tokenizer.encode("The cat")
    said = complete(engine, replace(GREEDY, max_tokens=1), ["The cat"])[0]
    wanted = engine.loglikelihood([(context, said.tokens)])
    assert said.logprobs == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("backend", ["kernel", "pytorch"])
@pytest.mark.parametrize(
    "settings",
    [Settings(temperature=0), Settings(temperature=1), Settings(max_tokens=0, echo=True)],
)
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_model_that_gives_no_numbers_is_told(
    backend: str, settings: Settings, number: float
) -> None:
    with patch("llama_cli.kernels.host.available", return_value=backend == "kernel"):
        model = tiny_model()
        model.norm.weight.data[3] = number
        engine = Engine(take_over(model), tiny_tokenizer())
        with pytest.raises(LlamaError, match="prompt '0': the model gives no numbers"):
            complete(engine, settings)


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("backend", ["kernel", "pytorch"])
def test_a_row_without_numbers_ends_alone_and_those_before_it_are_completed(
    backend: str, echo: bool
) -> None:
    model, told = tiny_model(), replace(GREEDY, echo=echo)
    damaged = tiny_tokenizer().encode("The cat opens")[-1]
    model.tok_embeddings.weight.data[damaged, 0] = math.nan
    engine = made(backend, model)
    texts = ["The table", "A river", "The cat opens", "The cat"]
    wanted = [complete(engine, told, [text])[0].completion for text in texts[:2]]
    running, found = engine.generate(prompts(texts), told), []
    with pytest.raises(LlamaError, match="prompt '2': the model gives no numbers"):
        found.extend(each.completion for each in running)
    assert found == wanted


def test_a_prompt_is_scored_without_a_token_more(engine: Engine) -> None:
    settings = Settings(max_tokens=0, echo=True)
    made = next(engine.generate([Prompt("x", "The cat")], settings))
    assert (made.finish, made.completion) == ("length", "The cat")
    assert len(made.logprobs) == len(engine.tokenizer.encode("The cat")) - 1


@pytest.mark.parametrize("text", ["k", "ck?", "k?!.", "!.", "é", "?!.é"])
def test_a_stop_string_may_begin_and_end_within_tokens(engine: Engine, text: str) -> None:
    said = "ck?!.é"
    pieces = engine.tokenizer.encode(f"The{said}", bos=False)[1:]
    assert len(set(pieces)) == len(pieces) > len(said)  # the last character is of two
    speaker = naming(engine, *pieces, 2)
    made = complete(speaker, Settings(temperature=0, stop=(text,)), ["The"])[0]
    assert (made.completion, made.finish) == (said[: said.index(text)], "stop")


def test_weights_in_eight_bits_think_nearly_the_same() -> None:
    plain, eight = (
        Engine(take_over(tiny_model(), quantize=q), tiny_tokenizer()) for q in (False, True)
    )
    settings = Settings(max_tokens=0, echo=True)
    one, other = (next(e.generate([Prompt("x", TEXTS[1])], settings)) for e in (plain, eight))
    assert other.logprobs == pytest.approx(one.logprobs, abs=0.5)
    assert other.logprobs != one.logprobs


def test_the_clock_is_asked_for_timings_only() -> None:
    ticks = iter(range(1000))
    engine = Engine(take_over(tiny_model()), tiny_tokenizer(), clock=lambda: float(next(ticks)))
    made = next(engine.generate(prompts(["The"]), Settings(max_tokens=3)))
    assert made.timings == Timings(first_token=1.0, seconds=3.0)

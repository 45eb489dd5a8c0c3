"""Completing and scoring: the same for every batch, and as without a cache."""

import math
from itertools import pairwise

import pytest
import torch

from llama_cli.inference.cache import KVCache
from llama_cli.inference.engine import Engine, Settings
from llama_cli.model.config import ModelConfig
from llama_cli.model.transformer import Transformer
from llama_cli.records import Completion, Prompt
from tests.tiny import CONFIG, tiny_model, tiny_tokenizer

GREEDY = Settings(max_tokens=12, temperature=0)
TEXTS = ["The cat", "The cat opens the river. The", "", "Ünï 12", "The table holds the"]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_model(), tiny_tokenizer())


def prompts(texts=TEXTS):
    return [Prompt(str(number), text) for number, text in enumerate(texts)]


def complete(engine: Engine, settings: Settings, texts=TEXTS) -> list[Completion]:
    return list(engine.generate(prompts(texts), settings))


def by_full_passes(engine: Engine, ids: list[int], count: int) -> list[int]:
    ids = list(ids)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(engine.model(torch.tensor([ids]))[0, -1].argmax()))
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
    return Engine(model, engine.tokenizer)


def test_the_cache_gives_what_a_full_pass_gives(engine):
    for completion in complete(engine, GREEDY):
        ids = engine.tokenizer.encode(completion.prompt)
        assert completion.tokens == by_full_passes(engine, ids, 12)


@pytest.mark.parametrize("settings", [GREEDY, Settings(max_tokens=12)])
def test_a_batch_gives_what_each_prompt_gives_alone(engine, settings):
    together = complete(engine, settings)
    alone = [next(engine.generate([prompt], settings)) for prompt in prompts()]
    assert [each.tokens for each in together] == [each.tokens for each in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_completions_come_in_the_order_of_the_prompts(engine):
    texts = [TEXTS[n % 5] for n in range(40)]
    settings = Settings(max_tokens=2, temperature=0, batch=2)
    assert [each.id for each in complete(engine, settings, texts)] == [str(n) for n in range(40)]


def test_a_prefill_in_pieces_gives_the_same(engine, monkeypatch):
    whole = complete(engine, GREEDY)
    monkeypatch.setattr("llama_cli.inference.engine.FORWARD", 10)
    assert [each.tokens for each in complete(engine, GREEDY)] == [each.tokens for each in whole]


def test_logprobs_are_those_of_the_model_at_temperature_one(engine):
    completion = complete(engine, GREEDY, ["The cat"])[0]
    ids = engine.tokenizer.encode("The cat")
    with torch.inference_mode():
        logits = engine.model(torch.tensor([ids]))[0, -1]
    assert completion.logprobs[0] == pytest.approx(float(logits.log_softmax(-1).max()), abs=1e-5)


def test_the_seed_changes_what_is_drawn_and_nothing_else_does(engine):
    first, again, other = (complete(engine, Settings(seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert [each.tokens for each in first] != [each.tokens for each in other]


def test_the_end_mark_ends_a_completion_and_is_not_text(engine):
    the = engine.tokenizer.encode("The", bos=False)[0]
    said = complete(naming(engine, the, 2), GREEDY, [""])[0]
    assert (said.finish, said.completion, said.tokens) == ("eos", "The", [the, 2])
    assert len(said.logprobs) == 2


def test_a_stop_string_ends_a_completion_and_is_cut_off(engine):
    pieces = [engine.tokenizer.encode(text, bos=False)[-1] for text in (".", "?", "!")]
    speaker = naming(engine, *pieces)
    said = complete(speaker, Settings(temperature=0, stop=("?",)), ["The"])[0]
    assert (said.finish, said.completion, said.tokens) == ("stop", ".", pieces[:2])


def test_the_earliest_of_two_stop_strings_cuts(engine):
    pieces = [engine.tokenizer.encode(text, bos=False)[-1] for text in (".", "?", "!")]
    said = complete(naming(engine, *pieces), Settings(temperature=0, stop=("?!", ".?")), ["The"])[0]
    assert (said.finish, said.completion) == ("stop", "")


def test_a_completion_stops_at_the_context(engine):
    said = complete(engine, Settings(temperature=0, max_tokens=1000), ["The cat"])[0]
    prompt = engine.tokenizer.encode("The cat")
    assert said.finish == "length"
    assert len(prompt) + len(said.tokens) == CONFIG.context


def test_a_prompt_that_fills_the_context_gets_no_tokens_and_spoils_no_batch(engine):
    long, short = complete(engine, GREEDY, ["The cat opens the river. " * 30, "The cat"])
    assert (long.finish, long.completion, long.tokens) == ("length", "", [])
    assert short.tokens == complete(engine, GREEDY, ["The cat"])[0].tokens


def test_no_tokens_wanted_is_no_tokens(engine):
    said = complete(engine, Settings(max_tokens=0))[0]
    assert (said.finish, said.tokens) == ("length", [])


@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_adds_up_to_the_completion(engine, text):
    settings = Settings(max_tokens=40, stop=("w",))
    said = next(engine.generate([Prompt("x", text)], settings))
    assert "".join(engine.stream(Prompt("x", text), settings)) == said.completion


def test_a_stream_never_shows_what_a_stop_string_may_cut(engine):
    pieces = [engine.tokenizer.encode(text, bos=False)[-1] for text in (".", "?", "!")]
    settings = Settings(temperature=0, stop=("?!",))
    assert list(naming(engine, *pieces).stream(Prompt("x", "The"), settings)) == ["."]


def test_a_stream_waits_for_all_bytes_of_a_character(engine):
    pieces = engine.tokenizer.encode("é", bos=False)[-2:]
    assert len(engine.tokenizer.decode(pieces)) == 1
    shown = list(naming(engine, *pieces, 2).stream(Prompt("x", "The"), GREEDY))
    assert shown == ["é"]


def test_a_stream_of_a_prompt_that_is_too_long_is_empty(engine):
    assert list(engine.stream(Prompt("x", "The cat opens the river. " * 30), GREEDY)) == []


@pytest.mark.parametrize(
    "wrong",
    [{"max_tokens": -1}, {"temperature": -0.1}, {"batch": 0}, {"top_p": 1.1}, {"stop": ("",)}],
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=r"at least|between"):
        Settings(**wrong)


def test_a_tokenizer_of_another_size_is_refused():
    model = Transformer(ModelConfig(dim=32, layers=1, heads=2, hidden=64, vocab_size=99))
    with pytest.raises(ValueError, match="the model has 99 pieces, its tokenizer 400"):
        Engine(model, tiny_tokenizer())


def test_laying_out_weights_changes_no_value():
    plain, engine = tiny_model(), Engine(tiny_model(), tiny_tokenizer())
    for one, other in zip(plain.parameters(), engine.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert engine.model.output.weight.stride() == (1, CONFIG.vocab_size)


def test_a_loglikelihood_is_the_sum_over_the_continuation_only(engine):
    context, continuation = [1, 50, 60], [70, 80]
    with torch.inference_mode():
        logp = engine.model(torch.tensor([context + continuation])).log_softmax(-1)[0]
    expected = float(logp[2, 70] + logp[3, 80])
    assert engine.loglikelihood([(context, continuation)]) == pytest.approx([expected], abs=1e-4)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_loglikelihoods_keep_their_order_in_every_batch(engine, batch):
    pairs = [([1] * (1 + n % 5), [40 + n] * (1 + n * 7 % 11)) for n in range(10)]
    alone = [engine.loglikelihood([pair])[0] for pair in pairs]
    assert engine.loglikelihood(pairs, batch=batch) == pytest.approx(alone, abs=1e-4)


def test_one_token_after_each_context_is_a_distribution(engine):
    pairs = [([1, 30], [token]) for token in range(CONFIG.vocab_size)]
    assert math.fsum(map(math.exp, engine.loglikelihood(pairs))) == pytest.approx(1, abs=1e-5)


def test_nothing_to_continue_with_is_certain(engine):
    assert engine.loglikelihood([([1], [])]) == [0.0]
    assert engine.loglikelihood([]) == []


def test_a_pair_may_fill_the_context_and_one_token_more(engine):
    full = ([1] * 60, [5] * 5)
    assert len(full[0] + full[1]) == CONFIG.context + 1
    assert engine.loglikelihood([full])[0] < 0


@pytest.mark.parametrize("pair", [([], [5]), ([1] * 60, [5] * 6)])
def test_a_pair_that_does_not_fit_is_refused(engine, pair):
    with pytest.raises(ValueError, match="does not fit 1 to 65"):
        engine.loglikelihood([pair])


def test_a_full_cache_takes_no_more():
    cache = KVCache(CONFIG, batch=1, length=2)
    three = torch.zeros(1, CONFIG.heads, 3, CONFIG.head_dim)
    with pytest.raises(ValueError, match="room for 2 tokens, not 3"):
        cache.extend(0, three, three)


def test_the_position_moves_with_the_last_layer():
    cache = KVCache(CONFIG, batch=1, length=2)
    one = torch.ones(1, CONFIG.heads, 1, CONFIG.head_dim)
    assert cache.extend(0, one, one)[0].shape[2] == 1
    assert cache.position == 0
    cache.extend(1, one, one)
    assert cache.position == 1

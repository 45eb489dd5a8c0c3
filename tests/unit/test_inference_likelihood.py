"""Likelihoods of continuations: what they are sums of, and what is computed once for several."""

from __future__ import annotations

import math
from random import Random

import pytest
import torch

from llama_cli.inference.engine import Engine
from llama_cli.inference.likelihood import Pair
from tests.tiny import CONFIG, tiny_model
from tests.unit.test_inference_engine import by_full_passes, counted, engine, made

__all__ = ["engine"]  # a fixture


def test_a_loglikelihood_is_the_sum_over_the_continuation_only(engine: Engine) -> None:
    context, continuation = [1, 50, 60], [70, 80]
    with torch.inference_mode():
        logp = tiny_model()(torch.tensor([context + continuation])).log_softmax(-1)[0]
    expected = float(logp[2, 70] + logp[3, 80])
    assert engine.loglikelihood([(context, continuation)]) == pytest.approx([expected], abs=1e-4)


def test_loglikelihoods_keep_their_order(engine: Engine) -> None:
    pairs = [([1] * (1 + n % 5), [40 + n] * (1 + n * 7 % 11)) for n in range(10)]
    alone = [engine.loglikelihood([pair])[0] for pair in pairs]
    assert engine.loglikelihood(pairs) == pytest.approx(alone, abs=1e-4)
    assert engine.loglikelihood(pairs[::-1])[::-1] == pytest.approx(alone, abs=1e-4)


def branching() -> list[Pair]:
    """Give pairs that part early and late, of which some begin others, and some are alike."""
    random = Random(3)
    stem = [1, *(random.randrange(3, 400) for _ in range(30))]
    pairs = []
    for cut in (1, 5, 16, 17, 31):
        for _ in range(3):
            tail = [random.randrange(3, 9) for _ in range(random.randrange(6))]
            pairs += [
                ([*stem[:cut], *tail], [random.randrange(3, 9) for _ in range(n)]) for n in range(4)
            ]
    return [*pairs, *pairs[:5]]


def test_a_likelihood_is_the_same_bits_whatever_it_shares() -> None:
    engine, pairs = made(), branching()
    assert engine.score(pairs) == [engine.score([pair])[0] for pair in pairs]


def test_what_pairs_share_is_read_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    read = counted(engine, monkeypatch)
    header, questions = [1, *range(5, 25)], [[30, 31], [30, 32], [40]]
    pairs = [([*header, *each], [option]) for each in questions for option in (50, 51)]
    engine.loglikelihood(pairs)
    assert sum(read) == len(header) + 1 + 1 + 1 + 1  # 30 is shared too, and options are not read
    assert len(read) == 3


def test_a_text_asked_about_at_every_place_is_read_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = counted(engine, monkeypatch)
    ids = [1, *range(5, 55)]
    pairs = [(ids[:place], ids[place : place + 2]) for place in range(1, 50)]
    found = engine.loglikelihood([*pairs, (ids[:1], ids[1:])])
    assert read == [50]
    assert math.fsum(found[:-1:2]) == pytest.approx(found[-1], abs=1e-3)


@pytest.mark.parametrize("backend", ["kernel", "pytorch"])
def test_thousands_of_pairs_take_few_slots(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_cli.inference.cache.PLACES", 200)  # 40 of 5
    engine, most = made(backend), {"kernel": 256, "pytorch": 40}[backend]
    pairs = [([1, 5, 6, 7 + n // 100, 7 + n % 100], [8, 9]) for n in range(5000)]
    rooms, cache = [], engine.network.cache
    engine.network.cache = lambda: rooms.append(cache()) or rooms[-1]
    found = engine.loglikelihood(pairs)
    assert rooms[0].slots <= most + 3  # and a path of the tree
    assert found[4321] == pytest.approx(engine.loglikelihood([pairs[4321]])[0], abs=1e-4)


def test_a_long_beginning_is_read_in_parts(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [([1, *range(5, 45), 60], [50, 51]), ([1, *range(5, 45), 70], [52])]
    whole = engine.score(pairs)
    read = counted(engine, monkeypatch)
    monkeypatch.setattr("llama_cli.inference.likelihood.FORWARD", 16)
    parts = engine.score(pairs)
    assert read[:3] == [16, 16, 9]
    assert [each.logprob for each in parts] == pytest.approx([e.logprob for e in whole], abs=1e-5)


def test_a_continuation_is_greedy_where_each_token_was_the_likeliest(engine: Engine) -> None:
    ids = engine.tokenizer.encode("The cat")
    best = by_full_passes(engine, ids, 4)
    other = [*best[:3], best[3] ^ 1]
    said = [each.greedy for each in engine.score([(ids, best), (ids, other), (ids, [])])]
    assert said == [True, False, True]


def test_one_token_after_each_context_is_a_distribution(engine: Engine) -> None:
    pairs = [([1, 30], [token]) for token in range(CONFIG.vocab_size)]
    assert math.fsum(map(math.exp, engine.loglikelihood(pairs))) == pytest.approx(1, abs=1e-5)


def test_nothing_to_continue_with_is_certain(engine: Engine) -> None:
    assert engine.loglikelihood([([1], [])]) == [0.0]
    assert engine.loglikelihood([]) == []


def test_a_pair_may_fill_the_context_and_one_token_more(engine: Engine) -> None:
    full = ([1] * 60, [5] * 5)
    assert len(full[0] + full[1]) == CONFIG.context + 1
    assert engine.loglikelihood([full])[0] < 0


@pytest.mark.parametrize("pair", [([], [5]), ([1] * 60, [5] * 6)])
def test_a_pair_that_does_not_fit_is_refused(
    engine: Engine, pair: tuple[list[int], list[int]]
) -> None:
    with pytest.raises(ValueError, match="does not fit 1 to 65"):
        engine.loglikelihood([pair])

"""A local model as what answers: groups, likelihoods, completions, and the cache."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llama_cli.errors import LlamaError
from llama_cli.evaluation.encode import encode_pairs
from llama_cli.evaluation.models import read_request
from llama_cli.evaluation.models.alone import Alone
from llama_cli.evaluation.models.answering import Answer, Answering, Asked
from llama_cli.evaluation.models.identity import weights_digest
from llama_cli.evaluation.models.local import Local
from llama_cli.evaluation.models.store import Store, digest
from llama_cli.evaluation.request import Request, Response
from llama_cli.inference.backend import take_over
from llama_cli.inference.engine import Engine, Settings
from llama_cli.inference.likelihood import Likelihood
from llama_cli.model.formats import open_source
from llama_cli.model.manifest import MANIFEST, Entry, write_manifest
from llama_cli.records import Prompt
from tests.tiny import tiny_checkpoint, tiny_model, tiny_tokenizer

NOUNS = ("cat", "table", "garden", "river", "question", "answer", "bottle", "window")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(take_over(tiny_model()), tiny_tokenizer())


def score(number: int, *pairs: tuple[str, str]) -> Request:
    return Request(task="t", id=str(number), kind="score", gold=0, pairs=pairs)


def complete(number: int, prompt: str, **how: Any) -> Request:
    how = {"max_tokens": 6, **how}
    return Request(task="g", id=str(number), kind="complete", gold="", prompt=prompt, **how)


def requests() -> list[Request]:
    made = []
    for number, noun in enumerate(NOUNS):
        context = f"The {noun} opens the"
        made.append(score(number, *((context, f" {each}") for each in NOUNS[:3]), ("A:", " cat")))
        made.append(complete(number, f"The {noun}", stop=["."]))
        drawn = {"temperature": 0.8, "top_p": 0.9, "samples": 3, "seed": 7}
        made.append(complete(number + 10, f"The {noun}", **drawn))
    return made


def answers(model: Answering[Any], asked: list[Request]) -> list[bytes]:
    return [each.to_json() for each in model(asked)]


# -- what can be asked --


@pytest.mark.parametrize("asked", [score(0, ("a", "b")), score(0), complete(0, "a", stop=["."])])
def test_a_request_is_read_as_it_was_written(asked: Request) -> None:
    assert read_request(asked.to_json()).to_json() == asked.to_json()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (complete(0, "a", max_tokens=0), "max_tokens and samples from 1 on"),
        (complete(0, "a", samples=0), "'samples' is a whole number over 0, not 0"),
        (complete(0, "a", top_p=2), "top_p from 0 to 1"),
        (complete(0, "a", temperature=-1), "temperature from 0 on"),
        (complete(0, "a", stop=[""]), "stops that are not empty"),
    ],
)
def test_what_no_model_can_answer_is_refused_where_it_is_read(asked: Request, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_request(asked.to_json())


# -- scoring --


def test_a_pair_has_the_sum_of_its_tokens_likelihoods_given_all_before(engine: Engine) -> None:
    (response,) = Answering(Local(engine))([score(0, ("The cat opens", " the table"))])
    ids = engine.tokenizer.encode("The cat opens the table")
    given = len(engine.tokenizer.encode("The cat opens"))
    one_by_one = [
        engine.loglikelihood([(ids[:end], ids[end : end + 1])])[0] for end in range(given, len(ids))
    ]
    assert response.logprobs[0] == pytest.approx(math.fsum(one_by_one), abs=1e-4)
    assert (response.tokens, response.truncated, response.bos) == ([len(ids) - given], False, True)


def test_spaces_after_a_context_belong_to_what_continues_it(engine: Engine) -> None:
    responses = Answering(Local(engine))([score(0, ("The cat", " opens"), ("The cat ", "opens"))])
    first, second = next(iter(responses)).logprobs
    assert first == pytest.approx(second, abs=1e-5)


def test_without_the_begin_mark_it_stands_only_before_nothing(engine: Engine) -> None:
    texts = [("The cat", " opens"), ("", "The cat")]
    bare = engine.tokenizer.encode("The cat", bos=False)
    (first, _), (second, rest) = encode_pairs(engine.tokenizer, texts, bos=False)
    assert (first, second, rest) == (bare, [engine.tokenizer.bos], bare)


def test_a_score_is_the_same_alone_and_in_any_group(engine: Engine) -> None:
    asked = [each for each in requests() if each.kind == "score"]
    whole = list(Answering(Local(engine))(asked))
    for budget in (1, 60):
        parts = Answering(Local(engine, budget=budget))(asked)
        for one, other in zip(whole, parts, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_the_largest_difference_is_that_of_the_worst_pair(engine: Engine) -> None:
    asked = [score(n, (f"The {noun}", " a"), ("A:", " b")) for n, noun in enumerate(NOUNS)]
    told = list(Answering(Local(engine))(asked))
    told[2] = replace(told[2], logprobs=[told[2].logprobs[0], told[2].logprobs[1] - 0.25])
    alone = Alone(3)
    assert list(alone.watch(told)) == told
    assert alone.largest(Local(engine)) == pytest.approx(0.25, abs=1e-4)
    few = Alone(2)
    list(few.watch(told))
    assert few.largest(Local(engine)) < 1e-4


def test_a_pair_that_many_rows_ask_for_is_scored_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    whole = engine.score

    def counted(pairs: Any) -> list[Likelihood]:
        seen.append(len(pairs))
        return whole(pairs)

    monkeypatch.setattr(engine, "score", counted)
    asked = [score(n, (f"The {NOUNS[n]}", " a"), ("A:", " b")) for n in (0, 1)]
    list(Answering(Local(engine))(asked))
    assert seen == [3]


def test_what_begins_alike_counts_once_in_a_group(engine: Engine) -> None:
    model = Local(engine)
    context = "The cat opens the table. The river"
    one, other = (
        model.prepare(score(n, (context, f" {each}"))) for n, each in ((0, "a"), (1, "b"))
    )
    own = len(engine.tokenizer.encode(f"{context} b"))
    assert model.cost(other, None) == own
    assert model.cost(other, one) == own - len(engine.tokenizer.encode(context))
    drawn = model.prepare(complete(2, context, temperature=1, samples=3, max_tokens=5))
    assert model.cost(drawn, one) == 15


def test_a_continuation_that_is_the_likeliest_is_said_to_be(engine: Engine) -> None:
    prompts = [Prompt(noun, f"The {noun} opens") for noun in NOUNS]
    encode = engine.tokenizer.encode
    made = engine.generate(prompts, Settings(max_tokens=2, temperature=0))
    texts = [(each.prompt, each.completion, each.tokens) for each in made]
    pairs = [(a, b) for a, b, ids in texts if encode(a + b) == [*encode(a), *ids]]
    (told,) = Answering(Local(engine))([score(0, *pairs, (pairs[0][0], " zzz"))])
    assert list(told.greedy) == [*[True] * len(pairs), False]


def test_a_context_that_is_too_long_loses_its_beginning_and_says_so(engine: Engine) -> None:
    (response,) = Answering(Local(engine))([score(0, ("The cat. " * 40, " table"), ("A", " b"))])
    assert response.truncated
    ids = engine.tokenizer.encode("The cat. " * 40 + " table")
    count = response.tokens[0]
    kept = ([ids[0], *ids[-engine.context : -count]], ids[-count:])
    assert response.logprobs[0] == pytest.approx(engine.loglikelihood([kept])[0], abs=1e-4)


def test_a_continuation_that_is_too_long_is_named_by_task_and_row(engine: Engine) -> None:
    with pytest.raises(LlamaError, match=r"t, row 3: \d+ tokens to score do not fit"):
        list(Answering(Local(engine))([score(3, ("A", " cat" * 90))]))


def test_a_text_of_its_own_is_scored_in_windows(engine: Engine) -> None:
    text = "The cat opens the table. " * 20
    (response,) = Answering(Local(engine))([score(0, ("", text))])
    assert response.tokens == [len(engine.tokenizer.encode(text)) - 1]
    assert not response.truncated


# -- completing --


def test_a_completion_does_not_depend_on_its_neighbours(engine: Engine) -> None:
    asked = [each for each in requests() if each.kind == "complete"]
    together = [each.completions for each in Answering(Local(engine))(asked)]
    alone = [next(Answering(Local(engine))([each])).completions for each in reversed(asked)]
    assert together == alone[::-1]
    drawn = [texts for texts in together if len(texts) == 3]
    assert len({text for texts in drawn for text in texts}) > len(NOUNS)


def test_a_completion_ends_before_a_stop_string(engine: Engine) -> None:
    (whole,) = next(Answering(Local(engine))([complete(0, "The cat", max_tokens=12)])).completions
    middle = whole[len(whole) // 2]
    asked = complete(0, "The cat", max_tokens=12, stop=[middle])
    assert next(Answering(Local(engine))([asked])).completions == [whole[: whole.index(middle)]]


def test_greedy_samples_are_all_the_same(engine: Engine) -> None:
    texts = next(Answering(Local(engine))([complete(0, "The cat", samples=3)])).completions
    assert len(texts) == 3
    assert len(set(texts)) == 1


@pytest.mark.parametrize("bos", [True, False])
def test_a_long_prompt_loses_its_beginning_and_leaves_room(engine: Engine, bos: bool) -> None:
    asked = complete(0, "The cat opens the table. " * 20, max_tokens=16)
    model = Local(engine, bos=bos)
    ids = engine.tokenizer.encode(asked.prompt)
    ready = model.prepare(asked)
    assert ready.truncated
    room = engine.context - 16
    assert list(ready.form.prompt) == [*ids[:bos], *ids[bos - room :]]
    assert next(Answering(model)([asked])).completions[0]


def test_half_of_the_context_is_the_prompts_however_much_is_asked_for(engine: Engine) -> None:
    asked = complete(0, "The cat opens the table. " * 20, max_tokens=500)
    assert len(Local(engine).prepare(asked).form.prompt) == engine.context // 2


def test_without_the_begin_mark_a_prompt_is_its_text_alone(engine: Engine) -> None:
    ready = Local(engine, bos=False).prepare(complete(0, "The cat"))
    assert list(ready.form.prompt) == engine.tokenizer.encode("The cat", bos=False)
    assert Local(engine, bos=False).prepare(complete(0, "")).form.prompt == (1,)


# -- the cache --


class Counted:
    """A backend that only counts."""

    name, bos, budget = "counted", None, 2

    def __init__(self) -> None:
        self.asked: list[str] = []

    def prepare(self, request: Request) -> Asked[None]:
        return Asked(request, None, digest(request.id))

    def cost(self, asked: Asked[None], before: Asked[None] | None) -> int:
        return 1

    def answer(self, groups: Iterator[list[Asked[None]]]) -> Iterator[list[Answer]]:
        for group in groups:
            self.asked += [each.request.id for each in group]
            yield [Answer(logprobs=[-float(each.request.id)]) for each in group]


def rows(*numbers: int) -> list[Request]:
    return [score(number, ("a", "b")) for number in numbers]


def opened(folder: Path, words: list[str] | None = None, **about: Any) -> Store:
    return Store.open(
        folder, {"weights": "w", **about}, (words if words is not None else []).append
    )


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    first, second = Counted(), Counted()
    told = answers(Answering(first, store=opened(tmp_path)), rows(1, 2, 3))
    again = answers(Answering(second, store=opened(tmp_path)), rows(1, 2, 3, 4))
    assert first.asked == ["1", "2", "3"]
    assert second.asked == ["4"]
    assert again[:3] == told


def test_one_request_in_a_group_twice_is_asked_once(tmp_path: Path) -> None:
    model = Counted()
    assert len(answers(Answering(model, store=opened(tmp_path)), rows(1, 1, 2, 2))) == 4
    assert model.asked == ["1", "2"]


def test_another_model_has_a_cache_of_its_own(tmp_path: Path) -> None:
    answers(Answering(Counted(), store=opened(tmp_path)), rows(1))
    other = Counted()
    answers(Answering(other, store=opened(tmp_path, weights="v")), rows(1))
    assert other.asked == ["1"]


def test_a_torn_line_is_left_out_with_a_word_and_asked_again(tmp_path: Path) -> None:
    told = answers(Answering(Counted(), store=opened(tmp_path)), rows(1, 2, 3, 4))
    (file,) = tmp_path.glob("*/*.jsonl")
    file.write_bytes(file.read_bytes()[:-2])
    words: list[str] = []
    again = Counted()
    assert answers(Answering(again, store=opened(tmp_path, words)), rows(1, 2, 3, 4)) == told
    assert again.asked == ["3", "4"]
    assert words == [f"{file}:2: left out, not a whole line: its process was stopped"]


def test_two_processes_at_once_write_files_of_their_own(tmp_path: Path) -> None:
    one, two = opened(tmp_path), opened(tmp_path)
    one.add({"a": Answer(logprobs=[-1.0])})
    two.add({"b": Answer(completions=["x"])})
    one.add({"c": Answer(tokens=[2])})
    assert set(opened(tmp_path).answers) == {"a", "b", "c"}
    assert len(list(tmp_path.glob("*/*.jsonl"))) == 2


def test_likelihoods_come_back_from_the_cache_to_the_last_bit(
    engine: Engine, tmp_path: Path
) -> None:
    store = opened(tmp_path)
    fresh = answers(Answering(Local(engine), store=store), requests())
    assert answers(Answering(Local(engine), store=opened(tmp_path)), requests()) == fresh
    assert answers(Answering(Local(engine)), requests()) == fresh


@pytest.mark.parametrize(
    "changes", [{"seed": 8}, {"temperature": 0.7}, {"top_p": 0.5}, {"max_tokens": 5}, {"id": "x"}]
)
def test_what_changes_a_draw_changes_its_key(engine: Engine, changes: dict[str, Any]) -> None:
    asked = complete(0, "The cat", temperature=0.8, samples=2)
    keys = {Local(engine).prepare(each).key for each in (asked, replace(asked, **changes))}
    assert len(keys) == 2


def test_what_a_row_is_called_does_not_change_the_key_of_a_score(engine: Engine) -> None:
    one, other = score(0, ("a", " b")), replace(score(1, ("a", " b")), task="u", gold=1)
    assert Local(engine).prepare(one).key == Local(engine).prepare(other).key


# -- which model it is --


def named(model: Path, root: Path) -> tuple[str, list[str]]:
    words: list[str] = []
    return weights_digest(open_source(model), root, words.append), words


def test_a_model_is_named_by_its_bytes_wherever_it_lies(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    for path, seed in ((one, 0), (same, 0), (other, 1)):
        tiny_checkpoint(path, seed)
    names = [named(path, tmp_path)[0] for path in (one, same, other)]
    assert names[0] == names[1] != names[2]


def test_weights_are_read_once_until_they_change(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path / "model")
    first, words = named(model, tmp_path)
    assert words == [f"{model / 'model.safetensors'}: read once, to name the model by its bytes"]
    assert named(model, tmp_path) == (first, [])
    tiny_checkpoint(tmp_path / "other", seed=1)
    (tmp_path / "other" / "model.safetensors").replace(model / "model.safetensors")
    second, words = named(model, tmp_path)
    assert second != first
    assert len(words) == 1


def test_a_manifest_spares_the_reading_unless_weights_are_newer(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path / "model")
    whole, _ = named(model, tmp_path)
    path = model / "model.safetensors"
    write_manifest(model, 1, {path.name: Entry.of(path)})
    assert named(model, tmp_path / "new") == (whole, [])
    later = (model / MANIFEST).stat().st_mtime_ns + 1
    os.utime(path, ns=(later, later))
    assert len(named(model, tmp_path / "new")[1]) == 1


def test_a_response_comes_back_as_it_was_written(engine: Engine) -> None:
    for each in Answering(Local(engine))(requests()[:3]):
        assert Response.from_json(each.to_json()).to_json() == each.to_json()

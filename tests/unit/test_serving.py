"""The server, as the official client of OpenAI's API sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from llama_cli.inference.backend import take_over
from llama_cli.inference.engine import Engine, Settings
from llama_cli.records import Completion, Prompt
from tests.serving import MODEL, Running, serving
from tests.tiny import tiny_model, tiny_tokenizer
from tests.unit.test_inference_engine import naming

GREEDY = {"temperature": 0, "max_tokens": 12}
TOKENIZER = tiny_tokenizer()


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(take_over(tiny_model()), TOKENIZER)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving() as running:
        yield running


def client_of(server: Running, token: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=token, max_retries=0)


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with client_of(server) as opened:
        yield opened


def alone(engine: Engine, prompt: str, name: str = "0", **asked: Any) -> list[Completion]:
    """Complete as `llama generate` does."""
    return list(engine.generate([Prompt(name, prompt)], Settings(**asked)))


def test_an_answer_is_what_llama_generate_gives_for_the_same_prompt(
    client: Any, engine: Engine
) -> None:
    answer = client.completions.create(model=MODEL, prompt="The cat", seed=7, max_tokens=12)
    (said,) = alone(engine, "The cat", seed=7, max_tokens=12)
    assert answer.choices[0].text == said.completion
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == len(TOKENIZER.encode("The cat"))
    assert answer.usage.completion_tokens == 12
    assert (answer.object, answer.model) == ("text_completion", MODEL)


def test_the_same_request_is_answered_the_same_without_a_seed(client: Any) -> None:
    first, again = (
        client.completions.create(model=MODEL, prompt="The", max_tokens=20) for _ in range(2)
    )
    assert first.choices[0].text == again.choices[0].text
    assert first.id != again.id


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_joined_is_the_answer_that_is_not_streamed(client: Any, seed: int) -> None:
    asked = {"model": MODEL, "prompt": ["The cat", "Ünï"], "seed": seed, "n": 2, "max_tokens": 30}
    whole = client.completions.create(**asked)
    texts, ends = ["", "", "", ""], {}
    for part in client.completions.create(**asked, stream=True):
        for choice in part.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason:
                assert choice.index not in ends
                ends[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}


def test_usage_comes_last_in_a_stream_where_it_is_asked_for(client: Any) -> None:
    asked = {"model": MODEL, "prompt": "The cat", "max_tokens": 5, "stream": True}
    parts = list(client.completions.create(**asked, stream_options={"include_usage": True}))
    assert all(part.usage is None for part in parts[:-1])
    assert parts[-1].choices == []
    assert (parts[-1].usage.prompt_tokens, parts[-1].usage.completion_tokens) == (3, 5)
    assert all(part.usage is None for part in client.completions.create(**asked))


def test_a_part_never_ends_within_a_character(engine: Engine) -> None:
    said = [TOKENIZER.processor.PieceToId(f"<0x{byte:02X}>") for byte in "é你😀.".encode()]
    with serving(engine=naming(engine, *said)) as server, client_of(server) as client:
        parts = client.completions.create(
            model=MODEL, prompt="The", temperature=0, max_tokens=len(said), stream=True
        )
        assert [part.choices[0].text for part in parts] == ["é", "你", "😀", "."]


def test_a_stop_string_across_tokens_ends_an_answer_and_no_part_shows_its_beginning(
    engine: Engine,
) -> None:
    said = [TOKENIZER.processor.PieceToId(f"<0x{byte:02X}>") for byte in b"catnd"]
    with serving(engine=naming(engine, *said)) as server, client_of(server) as client:
        asked = {"model": MODEL, "prompt": "The", "temperature": 0, "stop": ["tnd", "x"]}
        whole = client.completions.create(**asked)
        assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("ca", "stop")
        parts = [part.choices[0].text for part in client.completions.create(**asked, stream=True)]
        assert parts == ["c", "a", ""]


def test_the_samples_of_a_prompt_are_those_of_num_samples(client: Any, engine: Engine) -> None:
    answer = client.completions.create(model=MODEL, prompt="The", n=3, max_tokens=9, seed=1)
    said = alone(engine, "The", samples=3, max_tokens=9, seed=1)
    assert [choice.text for choice in answer.choices] == [each.completion for each in said]
    assert len({choice.text for choice in answer.choices}) == 3


def test_each_prompt_of_a_list_is_answered_in_its_place(client: Any, engine: Engine) -> None:
    texts = ["The cat", "A", "", "The table holds"]
    answer = client.completions.create(model=MODEL, prompt=texts, **GREEDY)
    said = [alone(engine, text, str(i), **GREEDY)[0] for i, text in enumerate(texts)]
    assert [choice.text for choice in answer.choices] == [each.completion for each in said]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]


def test_token_ids_are_taken_as_they_are(client: Any, engine: Engine) -> None:
    ids = TOKENIZER.encode("The cat")
    said = alone(engine, "The cat", **GREEDY)[0].completion
    for prompt in (ids, [ids]):
        answer = client.completions.create(model=MODEL, prompt=prompt, **GREEDY)
        assert answer.choices[0].text == said
        assert answer.usage.prompt_tokens == len(ids)
    rows = [ids, TOKENIZER.encode("The", bos=False)]
    answer = client.completions.create(model=MODEL, prompt=rows, **GREEDY)
    assert answer.choices[0].text == said
    assert answer.choices[1].text != said


@pytest.mark.parametrize("most", [0, 1])
def test_an_echo_of_ids_with_logprobs_has_the_likelihood_of_each(
    client: Any, engine: Engine, most: int
) -> None:
    ids = TOKENIZER.encode("The cat opens the door.")
    answer = client.completions.create(
        model=MODEL, prompt=[ids], echo=True, logprobs=1, max_tokens=most, temperature=0
    )
    told = answer.choices[0].logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(ids) + most
    assert told.token_logprobs[0] is None
    pairs = [(ids[:at], ids[at : at + 1]) for at in range(1, len(ids))]
    alike = pytest.approx(engine.loglikelihood(pairs), abs=1e-5)
    assert told.token_logprobs[1 : len(ids)] == alike
    if most:  # the likeliest was taken
        assert told.token_logprobs[-1] == max(told.top_logprobs[-1].values())


def test_an_echo_of_a_text_leaves_out_the_begin_mark(client: Any, engine: Engine) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="The cat", echo=True, logprobs=2, max_tokens=3, seed=2
    )
    said = alone(engine, "The cat", echo=True, logprobs=2, max_tokens=3, seed=2)[0]
    told = answer.choices[0].logprobs
    assert answer.choices[0].text == said.completion
    assert told.tokens == [TOKENIZER.piece(token) for token in said.tokens]
    assert told.token_logprobs == pytest.approx(said.logprobs)
    assert answer.usage.completion_tokens == 3


@pytest.mark.parametrize("prompt", ["The cat", [[1, 40, 50]]])
def test_logprobs_of_a_stream_joined_are_those_of_the_whole(client: Any, prompt: Any) -> None:
    asked = {"model": MODEL, "prompt": prompt, "echo": True, "logprobs": 2, "max_tokens": 9}
    whole = client.completions.create(**asked).choices[0].logprobs
    tokens, logprobs, offsets = [], [], []
    for part in client.completions.create(**asked, stream=True):
        told = part.choices[0].logprobs
        if told:
            tokens += told.tokens
            logprobs += told.token_logprobs
            offsets += told.text_offset
    assert (tokens, offsets) == (whole.tokens, whole.text_offset)
    assert logprobs == whole.token_logprobs


def test_a_conversation_is_answered_whole_and_streamed_alike(client: Any) -> None:
    asked = {
        "model": MODEL,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "max_completion_tokens": 20,
        "logprobs": True,
        "top_logprobs": 1,
    }
    whole = client.chat.completions.create(**asked)
    said, tokens, roles = "", [], []
    for part in client.chat.completions.create(**asked, stream=True):
        delta = part.choices[0].delta
        said += delta.content or ""
        roles.append(delta.role)
        told = part.choices[0].logprobs
        tokens += [each.token for each in told.content] if told else []
    assert said == whole.choices[0].message.content
    assert roles[0] == "assistant"
    assert roles[1:] == [None] * (len(roles) - 1)
    assert tokens == [each.token for each in whole.choices[0].logprobs.content]


def test_white_space_around_a_message_is_dropped_in_a_stream_too(engine: Engine) -> None:
    said = [TOKENIZER.processor.PieceToId(piece) for piece in ("\u2581", "c", "<0x0A>", "a")]
    said += [TOKENIZER.processor.PieceToId("<0x09>")]
    with serving(engine=naming(engine, *said)) as server, client_of(server) as client:
        asked = {"model": MODEL, "temperature": 0, "max_tokens": len(said)}
        asked["messages"] = [{"role": "user", "content": "Hi"}]
        whole = client.chat.completions.create(**asked).choices[0].message.content
        parts = list(client.chat.completions.create(**asked, stream=True))
        assert whole == "c\na"
        assert "".join(part.choices[0].delta.content or "" for part in parts) == whole


def test_what_a_request_does_not_say_is_as_the_options_say(engine: Engine) -> None:
    with serving(settings=Settings(max_tokens=3, seed=5)) as server, client_of(server) as client:
        answer = client.completions.create(model=MODEL, prompt="The")
        assert answer.choices[0].text == alone(engine, "The", max_tokens=3, seed=5)[0].completion


def test_without_a_length_an_answer_goes_on_to_the_end_of_the_context(
    client: Any,
) -> None:
    answer = client.completions.create(model=MODEL, prompt="The", temperature=0)
    assert answer.usage.total_tokens <= 64
    assert answer.choices[0].finish_reason in ("length", "stop")


def test_the_model_is_listed_and_found_by_its_name(client: Any) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="there is 'tiny'"):
        client.models.retrieve("gpt")
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt", prompt="The")
    assert caught.value.code == "model_not_found"


def test_only_a_token_of_the_file_lets_a_client_in() -> None:
    with serving(tokens=("first", "second")) as server:
        for token in ("first", "second"):
            with client_of(server, token) as client:
                assert client.completions.create(model=MODEL, prompt="a", max_tokens=1).choices
        for token in ("third", "firs", "firsts"):
            with client_of(server, token) as client, pytest.raises(openai.AuthenticationError) as e:
                client.completions.create(model=MODEL, prompt="a", max_tokens=1)
            assert (e.value.status_code, e.value.code) == (401, "invalid_api_key")

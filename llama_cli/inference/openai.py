"""Lines of OpenAI's batches, and answers in their form.

    {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "Once"}}

What a body does not say is as the options say. The forms are of
https://platform.openai.com/docs/api-reference/batch, without what a clock would have to tell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import orjson

from llama_cli.inference.prompts import Call, as_object, asked, read_prompt
from llama_cli.inference.rows import Request, Settings
from llama_cli.records import Completion, Message, Prompt
from llama_cli.tokenizer.bpe import Tokenizer
from llama_cli.tokenizer.template import Template

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
NUMBERS = {"temperature": (int, float), "top_p": (int, float), "min_p": (int, float)}
COUNTS = {"max_tokens": (int,), "top_k": (int,), "seed": (int,), "n": (int,)}
ENDS = {"eos": "stop", "stop": "stop", "length": "length"}  # ours, and OpenAI's
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one line."""

    custom_id: str
    body: dict[str, Any]

    def to_json(self) -> bytes:
        """Write one line, without its end."""
        response = {"status_code": 200, "request_id": self.custom_id, "body": self.body}
        return orjson.dumps(
            {
                "id": f"batch_req_{self.custom_id}",
                "custom_id": self.custom_id,
                "response": response,
                "error": None,
            }
        )


def read_call(line: bytes, *, settings: Settings, tokenizer: Tokenizer, template: Template) -> Call:
    """Read a line of a batch, or whatever `read_prompt` reads; `template` writes conversations.

    Raises:
        ValueError: it is neither.
    """
    row = as_object(line)
    if row is None or "custom_id" not in row or "body" not in row:
        return asked(read_prompt(line), settings)
    name, url, body = str(row["custom_id"]), row.get("url", TEXT), row["body"]
    if url not in (TEXT, CHAT) or not isinstance(body, dict):
        raise ValueError(f"an object for {TEXT} or {CHAT} is wanted")
    if body.get("stream"):
        raise ValueError("a batch is not streamed")
    chat = url == CHAT
    prompts = [_talk(body, template)] if chat else _texts(body)
    own = _settings(body, settings, chat=chat)
    requests = [
        Request(Prompt(name if len(prompts) == 1 else f"{name}/{index}", prompt), own)
        for index, prompt in enumerate(prompts)
    ]
    model = str(body.get("model", ""))
    answer = partial(_reply, name=name, model=model, chat=chat, own=own, tokenizer=tokenizer)
    return Call(tuple(requests), answer)


def _texts(body: dict[str, Any]) -> list[str]:
    given = body.get("prompt", "")
    prompts = given if isinstance(given, list) else [given]
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError("field 'prompt' is neither a text nor a list of texts")
    return prompts


def _talk(body: dict[str, Any], template: Template) -> str:
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise ValueError("no field 'messages'")
    messages = []
    for each in given:
        role, text = (each.get("role"), each.get("content")) if isinstance(each, dict) else (0, 0)
        if role not in ROLES or not isinstance(text, str):
            raise ValueError(f"a message has a text and a role of {', '.join(ROLES)}")
        messages.append(Message(role, text))
    return template.prompt(messages)


def _settings(body: dict[str, Any], settings: Settings, *, chat: bool) -> Settings:
    given = {k: body[k] for k in (*NUMBERS, *COUNTS) if body.get(k) is not None}
    if "max_completion_tokens" in body:
        given["max_tokens"] = body["max_completion_tokens"]
    for name, value in given.items():
        if type(value) not in {**NUMBERS, **COUNTS}[name]:
            raise ValueError(f"field '{name}' is {type(value).__name__}, not a number")
    if "n" in given:
        given["samples"] = given.pop("n")
    if body.get("stop") is not None:
        given["stop"] = _stops(body["stop"])
    if not chat and body.get("echo") is not None:
        given["echo"] = body["echo"] is True
    top = (body.get("top_logprobs") or 0) if chat and body.get("logprobs") else None
    top = body.get("logprobs") if not chat else top
    if top is not None:
        if type(top) is not int:
            raise ValueError("the number of logprobs is not a number")
        given["logprobs"] = top
    return replace(settings, **given)


def _stops(given: object) -> tuple[str, ...]:
    stops = [given] if isinstance(given, str) else given
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ValueError("field 'stop' is neither a text nor a list of texts")
    return tuple(stops)


def _reply(
    completions: list[Completion],
    *,
    name: str,
    model: str,
    chat: bool,
    own: Settings,
    tokenizer: Tokenizer,
) -> Reply:
    choices = [
        _choice(index, each, chat=chat, told=own.logprobs is not None, tokenizer=tokenizer)
        for index, each in enumerate(completions)
    ]
    firsts = completions[:: own.samples]
    read = sum(len(tokenizer.encode(each.prompt)) for each in firsts)
    made = sum(len(each.tokens) for each in completions)
    if own.echo:
        made -= sum(len(tokenizer.encode(each.prompt)) - 1 for each in completions if each.tokens)
    body = {
        "id": f"cmpl-{name}",
        "object": "chat.completion" if chat else "text_completion",
        "created": 0,
        "model": model,
        "choices": choices,
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": made,
            "total_tokens": read + made,
        },
    }
    return Reply(name, body)


def _choice(
    index: int, completion: Completion, *, chat: bool, told: bool, tokenizer: Tokenizer
) -> dict[str, Any]:
    said = completion.completion
    message = {"role": "assistant", "content": said.strip()}
    listed = _chat_logprobs if chat else _text_logprobs
    return {
        "index": index,
        **({"message": message} if chat else {"text": said}),
        "logprobs": listed(completion, tokenizer) if told else None,
        "finish_reason": ENDS[completion.finish],
    }


def _text_logprobs(completion: Completion, tokenizer: Tokenizer) -> dict[str, Any]:
    pieces, offsets = [tokenizer.piece(token) for token in completion.tokens], [0]
    for piece in pieces:
        offsets.append(offsets[-1] + len(piece))
    top = completion.top_logprobs or []
    return {
        "tokens": pieces,
        "token_logprobs": completion.logprobs,
        "top_logprobs": [{tokenizer.piece(t): p for t, p in reversed(each)} for each in top],
        "text_offset": offsets[:-1],
    }


def _chat_logprobs(completion: Completion, tokenizer: Tokenizer) -> dict[str, Any]:
    def told(token: int, logprob: float) -> dict[str, Any]:
        return {"token": tokenizer.piece(token), "logprob": logprob}

    parts = zip(completion.tokens, completion.logprobs, completion.top_logprobs or [], strict=True)
    content = [{**told(t, p), "top_logprobs": [told(*each) for each in top]} for t, p, top in parts]
    return {"content": content}

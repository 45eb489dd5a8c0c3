"""Lines of OpenAI's batches, and answers in their form.

    {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "Once"}}

What a body does not say is as the options say. A prompt is a text or its token ids, or there is
a list of either. The forms are of https://platform.openai.com/docs/api-reference/batch, without
what a clock would have to tell; `llama_cli.serving` answers in them too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

import orjson

from llama_cli.inference.fields import COUNTS, NUMBERS, check_fields
from llama_cli.inference.prompts import Call, as_object, asked, read_prompt, refused
from llama_cli.inference.rows import Request, Settings
from llama_cli.records import Completion, Message, Prompt
from llama_cli.stream.run import Instead
from llama_cli.tokenizer.bpe import Tokenizer
from llama_cli.tokenizer.template import Template

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
ENDS = {"eos": "stop", "stop": "stop", "length": "length"}  # ours, and OpenAI's
ROLES = ("system", "user", "assistant")
BYTE = re.compile(r"<0x[0-9A-F]{2}>")

Likeliest = list[tuple[int, float]]  # tokens at one place, and their logarithms


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one line; as OpenAI's, one that is refused has its error in the body."""

    custom_id: str
    body: dict[str, Any]
    status: int = 200  # HTTP's

    def to_json(self) -> bytes:
        """Write one line, without its end."""
        response = {"status_code": self.status, "request_id": self.custom_id, "body": self.body}
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
        Instead: it is a line of a batch that is refused; in its place is a call that says so.
        ValueError: it is neither.
    """
    row = as_object(line)
    if row is None or "custom_id" not in row:
        return asked(read_prompt(line), settings)
    name = str(row["custom_id"])
    try:
        if "body" not in row:
            return asked(read_prompt(line), settings)
        return _read_row(row, name, settings=settings, tokenizer=tokenizer, template=template)
    except ValueError as problem:
        told = error(str(problem), param=getattr(problem, "field", None))
        raise Instead(str(problem), refused(name, Reply(name, told, 400))) from None


def _read_row(
    row: dict[str, Any], name: str, *, settings: Settings, tokenizer: Tokenizer, template: Template
) -> Call:
    url, body = row.get("url", TEXT), row["body"]
    if url not in (TEXT, CHAT) or not isinstance(body, dict):
        raise ValueError(f"an object for {TEXT} or {CHAT} is wanted")
    if body.get("stream"):
        raise ValueError("a batch is not streamed")
    check_fields(body, chat=url == CHAT)
    chat = url == CHAT
    requests = requests_of(
        body, chat=chat, settings=settings, tokenizer=tokenizer, template=template, name=name
    )
    model = str(body.get("model", ""))
    answer = partial(
        _reply, name=name, model=model, chat=chat, requests=requests, tokenizer=tokenizer
    )
    return Call(requests, answer)


def requests_of(
    body: dict[str, Any],
    *,
    chat: bool,
    settings: Settings,
    tokenizer: Tokenizer,
    template: Template,
    name: str | None = None,
) -> tuple[Request, ...]:
    """Read what a body asks for. Its prompts are named by their place, after `name` if given.

    Raises:
        ValueError: it is not in OpenAI's form.
    """
    prompts = [_talk(body, template, tokenizer)] if chat else _prompts(body, tokenizer)
    own = _settings(body, settings, chat=chat)
    return tuple(
        Request(Prompt(_named(name, index, len(prompts)), prompt), own)
        if isinstance(prompt, str)
        else Request(
            Prompt(_named(name, index, len(prompts)), tokenizer.decode(prompt)), own, tuple(prompt)
        )
        for index, prompt in enumerate(prompts)
    )


def _named(name: str | None, index: int, count: int) -> str:
    """Name a prompt of several.

    >>> _named("a", 0, 1), _named("a", 0, 2), _named(None, 1, 2)
    ('a', 'a/0', '1')
    """
    if name is None:
        return str(index)
    return name if count == 1 else f"{name}/{index}"


def _prompts(body: dict[str, Any], tokenizer: Tokenizer) -> list[str | list[int]]:
    given = body.get("prompt", "")
    if isinstance(given, str) or _are_ids(given):
        given = [given]
    good = isinstance(given, list) and given
    if not good or not all(isinstance(each, str) or _are_ids(each) for each in given):
        raise ValueError("field 'prompt' is neither a text, nor token ids, nor a list of either")
    for each in given:
        if not isinstance(each, str) and not 0 <= min(each) <= max(each) < tokenizer.vocab_size:
            raise ValueError(f"field 'prompt' has an id outside 0 to {tokenizer.vocab_size - 1}")
    return list(given)


def _are_ids(given: object) -> bool:
    return isinstance(given, list) and bool(given) and all(type(each) is int for each in given)


def _talk(body: dict[str, Any], template: Template, tokenizer: Tokenizer) -> str | list[int]:
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise ValueError("no field 'messages'")
    messages = []
    for each in given:
        role, text = (each.get("role"), _said(each)) if isinstance(each, dict) else (0, None)
        if role not in ROLES or text is None:
            raise ValueError(f"a message has a text and a role of {', '.join(ROLES)}")
        messages.append(Message(role, text))
    if any(message.role == "assistant" for message in messages):
        return template.tokens(messages, tokenizer)
    return template.prompt(messages)


def _said(message: dict[str, Any]) -> str | None:
    """Give what a message says: a text, or a list of parts that are texts."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts]
    good = [text for text in texts if isinstance(text, str)]
    return "".join(good) if len(good) == len(texts) else None


def _settings(body: dict[str, Any], settings: Settings, *, chat: bool) -> Settings:
    given = {k: body[k] for k in (*NUMBERS, *COUNTS) if body.get(k) is not None}
    if body.get("max_completion_tokens") is not None:
        given["max_tokens"] = body["max_completion_tokens"]
    for name, value in given.items():
        if type(value) not in {**NUMBERS, **COUNTS}[name]:
            raise ValueError(f"field '{name}' is {type(value).__name__}, not a number")
    if "n" in given:
        given["samples"] = given.pop("n")
    if body.get("stop") is not None:
        given["stop"] = _stops(body["stop"])
    if not chat and body.get("echo") is not None:
        if not isinstance(body["echo"], bool):
            raise ValueError("field 'echo' is neither true nor false")
        given["echo"] = body["echo"]
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
    requests: Sequence[Request],
    tokenizer: Tokenizer,
) -> Reply:
    asked = [request for request in requests for _ in range(request.settings.samples)]
    parts = list(zip(asked, completions, strict=True))
    reads = [len(request.ids or tokenizer.encode(request.prompt.prompt)) for request in asked]
    made = sum(
        len(each.tokens) - (read - 1 if request.settings.echo and each.tokens else 0)
        for (request, each), read in zip(parts, reads, strict=True)
    )
    choices = [
        choice(index, each, request, chat=chat, tokenizer=tokenizer)
        for index, (request, each) in enumerate(parts)
    ]
    read = sum(reads[:: requests[0].settings.samples])
    return Reply(name, answer(f"cmpl-{name}", model, choices, usage(read, made), chat=chat))


def answer(
    name: str,
    model: str,
    choices: list[dict[str, Any]],
    used: dict[str, int],
    *,
    chat: bool,
    created: int = 0,
) -> dict[str, Any]:
    """Give the body of an answer."""
    return {
        "id": name,
        "object": "chat.completion" if chat else "text_completion",
        "created": created,
        "model": model,
        "choices": choices,
        "usage": used,
    }


def error(
    message: str,
    *,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
) -> dict[str, Any]:
    """Give the body of an answer that is an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def usage(read: int, made: int) -> dict[str, int]:
    """Count tokens, of each prompt once and of each completion."""
    return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}


def choice(
    index: int, completion: Completion, request: Request, *, chat: bool, tokenizer: Tokenizer
) -> dict[str, Any]:
    """Give one completion as a choice.

    Of a prompt that was given as ids the first is echoed too; nothing says how likely it was.
    """
    said, top = completion.completion, completion.top_logprobs or []
    told = None
    if request.settings.logprobs is not None:
        first = request.ids[:1] if request.ids and request.settings.echo else ()
        told = (chat_logprobs if chat else text_logprobs)(
            [*first, *completion.tokens],
            [*(None for _ in first), *completion.logprobs],
            [*(None for _ in first), *top],
            tokenizer,
        )
    message = {"role": "assistant", "content": said.strip()}
    return {
        "index": index,
        **({"message": message} if chat else {"text": said}),
        "logprobs": told,
        "finish_reason": ENDS[completion.finish],
    }


def text_logprobs(
    tokens: Sequence[int],
    logprobs: Sequence[float | None],
    top: Sequence[Likeliest | None],
    tokenizer: Tokenizer,
    offset: int = 0,
) -> dict[str, Any]:
    """List tokens as `/v1/completions` does; the first begins `offset` characters on."""
    pieces = [tokenizer.piece(token) for token in tokens]
    return {
        "tokens": pieces,
        "token_logprobs": list(logprobs),
        "top_logprobs": [
            each and {tokenizer.piece(token): logprob for token, logprob in reversed(each)}
            for each in top
        ],
        "text_offset": list(accumulate(map(len, pieces[:-1]), initial=offset)) if pieces else [],
    }


def chat_logprobs(
    tokens: Sequence[int],
    logprobs: Sequence[float | None],
    top: Sequence[Likeliest | None],
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """List tokens as `/v1/chat/completions` does."""

    def told(token: int, logprob: float | None) -> dict[str, Any]:
        piece = tokenizer.piece(token)
        return {"token": piece, "logprob": logprob, "bytes": list(_bytes(piece))}

    parts = zip(tokens, logprobs, top, strict=True)
    content = [
        {**told(t, p), "top_logprobs": [told(*e) for e in tops or ()]} for t, p, tops in parts
    ]
    return {"content": content}


def _bytes(piece: str) -> bytes:
    r"""Give what a piece stands for.

    >>> _bytes("<0xE2>"), _bytes(" a")
    (b'\xe2', b' a')
    """
    return bytes([int(piece[3:5], 16)]) if BYTE.fullmatch(piece) else piece.encode()

"""What flows through the pipes: one JSON object a line, keys in fixed order.

    fetch ─▶ Document ─▶ filter ─▶ Document ─▶ tokenize ─▶ Tokens ─▶ mix ─▶ Sequence ─▶ train
    Prompt ─▶ generate ─▶ Completion          checkpoint ─▶ eval ─▶ Score
    Conversation ─▶ train --instructions

A record carries no clock and no host, so the same input gives the same bytes. `from_json`
raises ValueError with what is wrong; the stream adds the file and the line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import orjson

Json = Mapping[str, Any]

ROLES = ("system", "user", "assistant")  # of the messages of a conversation
MOST_TOKENS = 1 << 31  # of any vocabulary; ours: ids fit four bytes
DEEPEST = 200  # objects and lists in each other; ours: orjson reads 1,024 and writes 254


def parsed(line: bytes) -> Any:
    r"""Read a line's JSON, whatever it holds.

    >>> parsed(b'"\xff"')
    Traceback (most recent call last):
    ValueError: not JSON: not UTF-8

    Raises:
        ValueError: it is none, and why.
    """
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        why = "not UTF-8" if "not valid UTF-8" in error.msg else error
        raise ValueError(f"not JSON: {why}") from None


def _object(line: bytes) -> dict[str, Any]:
    value = parsed(line)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is wanted, not {type(value).__name__}")
    if line.count(b"{") + line.count(b"[") > DEEPEST and _deeper(value, DEEPEST):
        raise ValueError(f"nested over {DEEPEST} deep")
    return value


def _deeper(value: object, levels: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(each, levels - 1) for each in inner)


def _take(row: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = row.pop(name, default)
    if value is None:
        raise ValueError(f"no field '{name}'")
    if not isinstance(value, kind):
        raise ValueError(f"field '{name}' is {type(value).__name__}, not {kind.__name__}")
    return value


def _tokens(row: dict[str, Any]) -> list[int]:
    tokens: list[int] = _take(row, "tokens", list)
    if not all(type(token) is int and 0 <= token < MOST_TOKENS for token in tokens):
        raise ValueError("field 'tokens' holds something other than token ids")
    return tokens


@dataclass(frozen=True, slots=True)
class Document:
    """A text with its origin; Dolma's and datatrove's document.

    >>> Document.from_json(b'{"text": "Hi", "url": "http://a"}').metadata
    {'url': 'http://a'}
    """

    id: str
    text: str
    source: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, line: bytes) -> Document:
        """Read one line. Only `text` is needed; unknown keys are kept in `metadata`."""
        row = _object(line)
        text = _take(row, "text", str)
        name = row.pop("id", None)
        source = _take(row, "source", str, "files")
        metadata = _take(row, "metadata", dict, {})
        if name is None:
            name = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        return cls(str(name), text, source, {**metadata, **row} if row else metadata)

    def to_json(self) -> bytes:
        """Write one line, without its end."""
        return orjson.dumps(
            {"id": self.id, "text": self.text, "source": self.source, "metadata": self.metadata}
        )


@dataclass(frozen=True, slots=True)
class Rejected:
    """A Document that a step dropped, and why."""

    document: Document
    step: str
    reason: str

    def to_json(self) -> bytes:
        """Write the whole document and `rejected: {step, reason}`."""
        document = self.document
        return orjson.dumps(
            {
                "id": document.id,
                "text": document.text,
                "source": document.source,
                "metadata": document.metadata,
                "rejected": {"step": self.step, "reason": self.reason},
            }
        )


@dataclass(frozen=True, slots=True)
class Tokens:
    """One document as token ids, its begin and end marks included."""

    id: str
    source: str
    tokens: list[int]

    @classmethod
    def from_json(cls, line: bytes) -> Tokens:
        """Read one line."""
        row = _object(line)
        return cls(str(_take(row, "id", object)), _take(row, "source", str), _tokens(row))

    def to_json(self) -> bytes:
        """Write one line, without its end."""
        return orjson.dumps({"id": self.id, "source": self.source, "tokens": self.tokens})


@dataclass(frozen=True, slots=True)
class Sequence:
    """What training reads: context + 1 tokens, and the sources they came from."""

    tokens: list[int]
    sources: list[str]

    @classmethod
    def from_json(cls, line: bytes) -> Sequence:
        """Read one line."""
        row = _object(line)
        sources = _take(row, "sources", list, [])
        if not all(isinstance(source, str) for source in sources):
            raise ValueError("field 'sources' holds something other than names")
        return cls(_tokens(row), sources)

    def to_json(self) -> bytes:
        """Write one line, without its end."""
        return orjson.dumps({"tokens": self.tokens, "sources": self.sources})


@dataclass(frozen=True, slots=True)
class Message:
    """What one side of a conversation says."""

    role: str  # one of ROLES
    text: str
    learnt: bool = False  # whether training learns to say it


@dataclass(frozen=True, slots=True)
class Conversation:
    """What an assistant is to learn: messages, of which the last is its own.

    >>> Conversation.from_json(b'{"prompt": "1+1?", "response": "2"}').messages[1]
    Message(role='assistant', text='2', learnt=True)
    """

    messages: tuple[Message, ...]

    @classmethod
    def from_json(cls, line: bytes) -> Conversation:
        """Read one line, in any of three forms.

        `prompt` and `response` (or `completion`, as `llama generate` writes); `messages` with
        `role` and `content`, as in OpenAI's chat format, where a `weight` of 0 says not to learn
        one; `instruction`, perhaps `input`, and `output`, as in Stanford's Alpaca.
        """
        row = _object(line)
        if "messages" in row:
            messages = _messages(_take(row, "messages", list))
        elif "instruction" in row:
            task, answer = _take(row, "instruction", str), _take(row, "output", str)
            given = _take(row, "input", str) if row.get("input") else ""
            messages = _exchange(f"{task}\n\n{given}" if given else task, answer)
        elif "prompt" in row:
            prompt = _take(row, "prompt", str)
            name = "completion" if "completion" in row else "response"
            messages = _exchange(prompt, _take(row, name, str))
        else:
            raise ValueError("no field 'messages', 'prompt' or 'instruction'")
        return cls(_checked(messages))


def _exchange(prompt: str, response: str) -> tuple[Message, ...]:
    return Message("user", prompt), Message("assistant", response, learnt=True)


def _messages(rows: list[Any]) -> tuple[Message, ...]:
    found = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f"message {number} is {type(row).__name__}, not an object")
        role, text = row.get("role"), row.get("content")
        if role not in ROLES:
            raise ValueError(f"message {number}: role {role!r} is none of {', '.join(ROLES)}")
        if not isinstance(text, str):
            raise ValueError(f"message {number}: its content is {type(text).__name__}, not str")
        if row.get("weight", 1) not in (0, 1):
            raise ValueError(f"message {number}: weight {row['weight']} is neither 0 nor 1")
        found.append(Message(role, text, role == "assistant" and row.get("weight", 1) == 1))
    return tuple(found)


def _checked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if not messages:
        raise ValueError("no messages")
    if messages[-1].role != "assistant":
        raise ValueError(f"the last message is by the {messages[-1].role}, not the assistant")
    if not any(message.learnt for message in messages):
        raise ValueError("no message that is to be learnt")
    if not all(message.text.strip() for message in messages if message.learnt):
        raise ValueError("the response is empty")
    return messages


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to complete."""

    id: str
    prompt: str

    @classmethod
    def from_json(cls, line: bytes) -> Prompt:
        """Read one line; `text` serves where there is no `prompt`, so Documents are prompts."""
        row = _object(line)
        if "prompt" not in row and "text" not in row:
            raise ValueError("no field 'prompt', and no 'text'")
        prompt = _take(row, "prompt" if "prompt" in row else "text", str)
        name = row.get("id")
        return cls("" if name is None else str(name), prompt)

    def to_json(self) -> bytes:
        """Write one line, without its end."""
        return orjson.dumps({"id": self.id, "prompt": self.prompt})


@dataclass(frozen=True, slots=True)
class Timings:
    """What a completion took, in seconds since its prompt was read. Asked for: it is a clock's."""

    first_token: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and what the model made of it.

    `finish` is "eos", "stop" or "length"; `logprobs` are natural logarithms, one a token.
    What was not asked for is None, and is not written: which `sample` of several it is, the
    likeliest tokens at each place with their logarithms, and timings.
    """

    id: str
    prompt: str
    completion: str
    finish: str
    tokens: list[int]
    logprobs: list[float]
    seed: int = 0
    sample: int | None = None
    top_logprobs: list[list[tuple[int, float]]] | None = None
    timings: Timings | None = None

    def to_json(self) -> bytes:
        """Write one line, without its end."""
        later = {
            "sample": self.sample,
            "top_logprobs": self.top_logprobs,
            "timings": self.timings,
        }
        return orjson.dumps(
            {
                "id": self.id,
                "prompt": self.prompt,
                "completion": self.completion,
                "finish": self.finish,
                "tokens": self.tokens,
                "logprobs": self.logprobs,
                "seed": self.seed,
                **{name: value for name, value in later.items() if value is not None},
            }
        )


_SCORE: Mapping[str, tuple[type, ...]] = {  # what the fields of a score may be
    **dict.fromkeys(("task", "metric", "normalization", "group", "model"), (str,)),
    **dict.fromkeys(("reported", "protocol"), (dict,)),
    **dict.fromkeys(("shots", "rows"), (int,)),
    "value": (float, int),
    "stderr": (float, int, type(None)),
}


@dataclass(frozen=True, slots=True)
class Score:
    """One figure of a model on a task, and what the paper reports for its models.

    `reported` maps a size ("7B") to the paper's figure, in the unit of `value`. `group` is the
    part of the rows it is for, such as a subject, empty for all; `rows` counts them. `protocol`
    says how they were asked: the split, a hash of the prompts, the begin mark, the seed, and
    whatever differs from the paper.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    shots: int
    normalization: str
    reported: Mapping[str, float] = field(default_factory=dict)
    group: str = ""
    rows: int = 0
    protocol: Json = field(default_factory=dict)
    model: str = ""

    @classmethod
    def from_json(cls, line: bytes) -> Score:
        """Read one line."""
        row = _object(line)
        names = set(cls.__dataclass_fields__)
        if not names >= set(row):
            raise ValueError(f"a score has the fields {', '.join(cls.__dataclass_fields__)}")
        try:
            score = cls(**row)
        except TypeError as error:
            raise ValueError(f"no score: {error}") from None
        for name, kinds in _SCORE.items():
            if type(getattr(score, name)) not in kinds:
                wanted = " or ".join(kind.__name__ for kind in kinds)
                raise ValueError(f"field '{name}' is {getattr(score, name)!r}, not {wanted}")
        if score.rows < 0 or not all(
            type(each) in (int, float) for each in score.reported.values()
        ):
            raise ValueError("rows are 0 or more, and what is reported are numbers")
        return score

    def to_json(self) -> bytes:
        """Write one line, without its end."""
        return orjson.dumps(
            {
                "task": self.task,
                "metric": self.metric,
                "value": self.value,
                "stderr": self.stderr,
                "shots": self.shots,
                "normalization": self.normalization,
                "reported": dict(self.reported),
                "group": self.group,
                "rows": self.rows,
                "protocol": dict(self.protocol),
                "model": self.model,
            }
        )

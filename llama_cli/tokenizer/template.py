"""Conversations as text, and so as tokens: how an assistant is taught, and later asked.

LLaMA-I (section 4) is not said to have a form of its own. This one is ours, and plain text, so
that any tool that completes text can ask:

    <s>Answer briefly.

    User: What is the capital of France?

    Assistant: Paris.</s>

What the assistant says is encoded by itself, as a continuation is when it is generated. After
the end mark of one answer the next message follows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from llama_cli.records import Conversation, Message
from llama_cli.tokenizer.bpe import Tokenizer

TEMPLATE = "template.json"  # beside a model that was taught with it


@dataclass(frozen=True, slots=True)
class Template:
    """What stands around a message; {} is its text."""

    system: str = "{}\n\n"
    user: str = "User: {}\n\n"
    assistant: str = "Assistant:"  # and then a space, the text, and the end mark

    def prompt(self, messages: Sequence[Message]) -> str:
        r"""Write messages of others so that the assistant's answer is what continues them.

        >>> Template().prompt([Message("user", "Hi")])
        'User: Hi\n\nAssistant:'
        """
        return f"{''.join(map(self._text, messages))}{self.assistant}"

    def tokens(self, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
        """Give the tokens that the assistant's next answer continues, as `encode` lays them out.

        Its answers so far end with the end mark, which no text can hold.
        """
        ids, before = [tokenizer.bos], list[Message]()
        for message in messages:
            if message.role == "assistant":
                ids += tokenizer.encode(self.prompt(before), bos=False)
                ids += tokenizer.encode(message.text, bos=False, eos=True)
                before = []
            else:
                before.append(message)
        return ids + tokenizer.encode(self.prompt(before), bos=False)

    def encode(self, conversation: Conversation, tokenizer: Tokenizer) -> tuple[list[int], bytes]:
        """Give the tokens of a conversation, and a byte each: 1 if it is to be learnt."""
        tokens, learnt = [tokenizer.bos], [0]
        for before, message in _answers(conversation.messages):
            given = tokenizer.encode(self.prompt(before), bos=False)
            said = tokenizer.encode(message.text, bos=False, eos=True)
            tokens += [*given, *said]
            learnt += [0] * len(given) + [int(message.learnt)] * len(said)
        return tokens, bytes(learnt)

    def to_json(self) -> str:
        """Write template.json."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Template:
        """Read it.

        Raises:
            ValueError: it is something else.
        """
        try:
            told = json.loads(text)
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from None
        try:
            found = cls(**told)
            found.prompt([Message("system", ""), Message("user", "")])
        except (TypeError, ValueError, AttributeError, LookupError):
            raise ValueError("not a template of conversations") from None
        return found

    def _text(self, message: Message) -> str:
        return (self.system if message.role == "system" else self.user).format(message.text)


def _answers(messages: Sequence[Message]) -> Iterator[tuple[list[Message], Message]]:
    """Yield what the assistant says, and what was said to it before."""
    before: list[Message] = []
    for message in messages:
        if message.role == "assistant":
            yield before, message
            before = []
        else:
            before.append(message)

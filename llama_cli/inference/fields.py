"""Which fields a body in OpenAI's form may have.

What would change an answer and is not done here is refused by its name, in a line of a batch as
over HTTP; nothing of that kind is passed over in silence.
"""

from __future__ import annotations

import math
from typing import Any

NUMBERS = {"temperature": (int, float), "top_p": (int, float), "min_p": (int, float)}
COUNTS = {"max_tokens": (int,), "top_k": (int,), "seed": (int,), "n": (int,)}
BOTH = {"model", "stream", "stream_options", "stop", "logprobs", *NUMBERS, *COUNTS}
TEXT_FIELDS = {*BOTH, "prompt", "echo"}
CHAT_FIELDS = {*BOTH, "messages", "top_logprobs", "max_completion_tokens"}
NEUTRAL: dict[str, tuple[object, ...]] = {  # fields that are not done, and what asks for nothing
    "suffix": ("",),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
IGNORED = {  # what changes no answer
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "parallel_tool_calls",
}


class FieldError(ValueError):
    """A field that is not taken; `field` is its name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"field '{field}' {message}")
        self.field = field


def check_fields(body: dict[str, Any], *, chat: bool) -> None:
    """Refuse what is not known, and what would change the answer and is not done.

    >>> check_fields({"prompt": "Once", "presence_penalty": 0, "user": "a"}, chat=False)

    Raises:
        FieldError: there is such a field.
    """
    known = CHAT_FIELDS if chat else TEXT_FIELDS
    for name, value in body.items():
        if value is None or name in known or name in IGNORED:
            if type(value) is float and not math.isfinite(value):
                raise FieldError(name, "is not a finite number")
            continue
        if name == "best_of":
            neutral: tuple[object, ...] = (body.get("n") or 1,)
        elif name in NEUTRAL:
            neutral = NEUTRAL[name]
        else:
            raise FieldError(name, "is not known here")
        if value not in neutral:
            raise FieldError(name, "is not supported here")

"""Texts as pairs of token ids: what is given, and what is to be scored.

The begin mark is always there, as in training. Context and continuation are encoded together
and cut where the context alone would end, with its trailing spaces moved over: the rule of
lm-evaluation-harness, under which the two agree to 5e-5 a request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from llama_cli.inference.engine import Pair
from llama_cli.tokenizer.bpe import Tokenizer


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> Pair:
    """Give the ids of both, the begin mark first."""
    return encode_pairs(tokenizer, [(context, continuation)])[0]


def encode_pairs(
    tokenizer: Tokenizer, texts: Iterable[tuple[str, str]], *, bos: bool = True
) -> list[Pair]:
    """Give the ids of contexts and continuations; one context is measured once.

    Without `bos` the begin mark stands only where a context would be empty.
    """
    starts: dict[str, int] = {}
    pairs: list[Pair] = []
    for context, continuation in texts:
        bare = context.rstrip()
        if bare not in starts:
            starts[bare] = len(tokenizer.encode(bare, bos=bos))
        start = starts[bare]
        whole = tokenizer.encode(context + continuation, bos=bos or not start)
        pairs.append((whole[: start or 1], whole[start or 1 :]))
    return pairs


def fit_pair(pair: Pair, context: int) -> Pair:
    """Drop tokens after the begin mark until the pair can be scored with `context` positions.

    >>> fit_pair(([1, 5, 6, 7], [8, 9]), 4)
    ([1, 6, 7], [8, 9])

    Raises:
        ValueError: the continuation alone is too long.
    """
    given, scored = pair
    room = context + 1 - len(scored)
    if room < 1:
        raise ValueError(f"{len(scored)} tokens to score do not fit a context of {context}")
    if len(given) <= room:
        return pair
    return [*given[:1], *given[len(given) - room + 1 :]], scored


def windows(ids: Sequence[int], context: int) -> Iterator[Pair]:
    """Cut a document, begin mark first, so that every later token is scored once.

    Windows follow each other with one token of context; the last reaches back to be full.

    >>> list(windows([1, 2, 3, 4, 5, 6], 3))
    [([1], [2, 3, 4]), ([3, 4], [5, 6])]
    """
    for start in range(1, len(ids), context):
        end = min(start + context, len(ids))
        yield ids[max(0, end - context - 1) : start], ids[start:end]

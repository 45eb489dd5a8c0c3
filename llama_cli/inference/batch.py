"""Many rows at once: each step adds a token to every row, and a row that ends makes room.

Rows join when there is a free slot, whatever the others are doing: a step takes prompts of
new rows and the next tokens of old ones together. A prompt that begins as another did takes
that beginning from the cache, in whole blocks, which the other computed as it would have.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import repeat
from typing import Any

import numpy as np

from llama_cli.inference.alike import BLOCK, alike, may_share_more
from llama_cli.inference.backend import Backend, Piece, Room, States
from llama_cli.inference.rows import Row, whole_text
from llama_cli.inference.sample import Floats, draw, likeliest, uniform
from llama_cli.tokenizer.bpe import Tokenizer

FORWARD = 2048  # tokens of prompts in one step; ours
NO_NUMBERS = "the model gives no numbers: its weights are damaged, or too large for their dtype"


class Batch:
    """The rows that are being completed, at most `size` at a time."""

    def __init__(
        self,
        network: Backend,
        tokenizer: Tokenizer,
        *,
        size: int,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.network, self.tokenizer, self.size, self.clock = network, tokenizer, size, clock
        self.cache: Room = network.cache()
        self.rows: list[Row] = []  # by slot

    def step(self, waiting: deque[Row]) -> None:
        """Admit rows that wait, as many as fit, and add a token to each whose prompt is read."""
        self._admit(waiting)
        pieces = self._pieces()
        tokens = [
            token
            for row, each in zip(self.rows, pieces, strict=True)
            for token in row.ids[each.start : each.start + each.count]
        ]
        states_Nd = self.network.states(tokens, pieces, self.cache)
        self._hold(pieces, states_Nd)
        self._choose(pieces, states_Nd)
        self._note_times()
        self.rows = [row for row in self.rows if row.runs]

    def drop(self, rows: Collection[Row]) -> None:
        """Give up rows that nobody waits for, between two steps; their slots are free at once."""
        gone = set(map(id, rows))
        self.rows = [row for row in self.rows if id(row) not in gone]

    def _note_times(self) -> None:
        now = self.clock() if self.clock else None
        for row in self.rows:
            if row.first is None and row.from_start:
                row.first = now
            if row.finish:
                row.ended = now

    def _admit(self, waiting: deque[Row]) -> None:
        while waiting and len(self.rows) < self.size:
            row = waiting[0]
            self.cache.grow(min(self.size, len(self.rows) + len(waiting)), row.end)
            source, shared = self.cache.nearest([] if row.settings.echo else row.ids)
            if any(_soon(other, row, shared) for other in self.rows):
                return  # in a step or two there is more to share
            free = sorted(set(range(self.cache.slots)) - {each.slot for each in self.rows})
            row.slot = source if shared and source in free else free[0]
            self.cache.copy(source, row.slot, shared)
            self.cache.prompts[row.slot] = row.ids[:shared]
            row.held = shared
            self.rows = sorted([*self.rows, waiting.popleft()], key=lambda each: each.slot)

    def _pieces(self) -> list[Piece]:
        """Cut what each row brings to this step; prompts are cut where a block ends."""
        pieces, left = [], FORWARD
        for row in self.rows:
            count = len(row.ids) - row.held
            if count > 1:
                count = min(count, max(BLOCK, left // BLOCK * BLOCK))
                left -= count
            pieces.append(Piece(row.slot, row.held, count))
        return pieces

    def _hold(self, pieces: Sequence[Piece], states_Nd: States) -> None:
        """Note what the cache holds now, and what the model thought of a prompt."""
        first = 0
        for row, piece in zip(self.rows, pieces, strict=True):
            row.held += piece.count
            if row.held <= row.start:
                self.cache.prompts[row.slot] = row.ids[: row.held]
            if row.settings.echo and piece.start < row.start - 1:
                said = row.ids[piece.start + 1 : min(row.held, row.start - 1) + 1]
                self._score(row, states_Nd[first : first + len(said)], said)
            first += piece.count

    def _score(self, row: Row, states_Nd: States, tokens: Sequence[int]) -> None:
        for at in range(0, len(tokens), self.network.at_once):
            said = tokens[at : at + self.network.at_once]
            logits_NV = self.network.logits(states_Nd[at : at + len(said)])
            _, total_N = self.network.summary(logits_NV)
            if not np.isfinite(total_N).all():
                row.fail(NO_NUMBERS)
                return
            row.logprobs += (_picked(logits_NV, said) - total_N).tolist()
            if row.settings.logprobs is not None:
                known_NV = logits_NV[:, : self.tokenizer.vocab_size]
                row.top += map(_likeliest, known_NV, total_N, repeat(row.settings.logprobs))

    def _choose(self, pieces: Sequence[Piece], states_Nd: States) -> None:
        """Add a token to each row of which all tokens have been read."""
        ends, rows, first = [], [], 0
        for row, piece in zip(self.rows, pieces, strict=True):
            first += piece.count
            if row.held == len(row.ids) and row.runs:
                if row.held == row.end:  # only the prompt's probabilities were wanted
                    row.finish = "length"
                else:
                    ends.append(first - 1)
                    rows.append(row)
        if rows:
            every = len(states_Nd) == len(ends)
            logits_BV = self.network.logits(states_Nd if every else states_Nd[ends])
            self._add(rows, logits_BV)

    def _add(self, rows: Sequence[Row], logits_BV: Floats) -> None:
        known_BV = logits_BV[:, : self.tokenizer.vocab_size]  # a model may have spare pieces
        best_B, total_B = self.network.summary(known_BV)
        if known_BV.shape != logits_BV.shape:  # which have their part of the probability
            _, total_B = self.network.summary(logits_BV)
        for row, best, total, logits_V in zip(rows, best_B, total_B, known_BV, strict=True):
            if not np.isfinite(total):
                row.fail(NO_NUMBERS)
                continue
            token = best if row.settings.temperature == 0 else _drawn(row, logits_V)
            if row.settings.logprobs is not None:
                row.top.append(_likeliest(logits_V, total, row.settings.logprobs))
            row.ids.append(token)
            row.logprobs.append(float(logits_V[token] - total))
            row.finish = self._finish(row, token)

    def _finish(self, row: Row, token: int) -> str:
        if token == Tokenizer.eos:
            return "eos"
        stops = row.settings.stop
        if stops:
            text = whole_text(row, self.tokenizer)
            if any(stop in text for stop in stops):
                return "stop"
        return "length" if len(row.ids) == row.end else ""


def _picked(logits_NV: Floats, tokens: Sequence[int]) -> Floats:
    """Give the logit of a token of each row."""
    return logits_NV[np.arange(len(tokens)), tokens]


def _likeliest(logits_V: Floats, total: Any, count: int) -> list[tuple[int, float]]:
    """Give the likeliest tokens and the logarithms of their probabilities: all, if no more are."""
    top_K, tokens_K = likeliest(logits_V, min(count, len(logits_V)))
    return list(zip(tokens_K.tolist(), (top_K - total).tolist(), strict=True))


def _soon(other: Row, row: Row, shared: int) -> bool:
    """Say whether more than `shared` tokens could be shared once the other's prompt is read."""
    if other.held >= other.start or row.settings.echo:
        return False
    prompt = other.ids[: other.start]
    return may_share_more(row.ids, prompt, shared) and alike(row.ids[:-1], prompt) > shared


def _drawn(row: Row, logits_V: Floats) -> int:
    settings = row.settings
    number = uniform(settings.seed, row.prompt.id, row.from_start, row.sample)
    return draw(
        logits_V,
        number,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        min_p=settings.min_p,
    )

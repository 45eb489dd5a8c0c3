"""Completing prompts and scoring continuations with a model.

A batch of prompts of unequal length is decoded as Meta's released code does: no padding on
the left and no mask. All rows start after the shortest prompt; where a longer one goes on,
its own token is taken instead of the model's. Scoring pads on the right, which causal
attention never sees. Both give a row what it would get alone, up to rounding.
Legend: B batch, L length, d width, V vocabulary, N scored tokens of a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice, pairwise

import torch
from torch import Tensor, nn

from llama_cli.inference.cache import KVCache
from llama_cli.inference.sample import draw, uniform
from llama_cli.model.transformer import Transformer
from llama_cli.records import Completion, Prompt
from llama_cli.tokenizer.bpe import Tokenizer

Pair = tuple[Sequence[int], Sequence[int]]  # ids of a context, and of what continues it

FORWARD = 8192  # tokens in one pass; ours
HEAD = 512  # positions whose logits are held at a time; ours: 64 MB at 32,000 pieces


@dataclass(frozen=True, slots=True)
class Settings:
    """How to complete. Defaults of temperature, top-p and length are the released code's."""

    max_tokens: int = 256
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0
    stop: tuple[str, ...] = ()
    batch: int = 16  # ours
    ahead: int = 128  # prompts read before any is completed, to batch equal lengths; ours

    def __post_init__(self) -> None:
        if self.max_tokens < 0 or self.temperature < 0 or min(self.batch, self.ahead) < 1:
            raise ValueError("max_tokens and temperature are at least 0, batch and ahead 1")
        if not 0 <= self.top_p <= 1 or "" in self.stop:
            raise ValueError("top_p lies between 0 and 1, and a stop string is not empty")


@dataclass(slots=True)
class _Row:
    """A prompt and its completion while it grows."""

    prompt: Prompt
    ids: list[int]  # the prompt's, then the completion's
    start: int  # where the completion begins
    end: int  # where it must end
    finish: str = ""  # while it goes on
    logprobs: list[float] = field(default_factory=list)


class Engine:
    """A model and its tokenizer, ready to complete and to score.

    On a CPU the matrices are laid out column by column: the same values, 2.4 times as quick
    to multiply with a single row.

    Raises:
        ValueError: the tokenizer is not the model's.
    """

    def __init__(self, model: Transformer, tokenizer: Tokenizer) -> None:
        if model.config.vocab_size != tokenizer.vocab_size:
            raise ValueError(
                f"the model has {model.config.vocab_size:,} pieces, "
                f"its tokenizer {tokenizer.vocab_size:,}"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.context = model.config.context
        self.weight = model.output.weight  # tells device and type
        if self.weight.device.type == "cpu":
            _lay_out(model)

    # -- completing --

    def generate(self, prompts: Iterable[Prompt], settings: Settings) -> Iterator[Completion]:
        """Complete each prompt, in order. A prompt as long as the context gets no tokens."""
        prompts = iter(prompts)
        while rows := [self._row(each, settings) for each in islice(prompts, settings.ahead)]:
            waiting = iter(sorted(rows, key=lambda row: row.start))
            while batch := list(islice(waiting, settings.batch)):
                deque(self._decode(batch, settings), maxlen=0)
            yield from (self._completion(row, settings) for row in rows)

    def stream(self, prompt: Prompt, settings: Settings) -> Iterator[str]:
        """Yield the text of one completion as it is settled."""
        row, sent = self._row(prompt, settings), 0
        for _ in self._decode([row], settings):
            text = self._text(row, settings)
            settled = len(text) if row.finish else _settled(text, settings.stop)
            if settled > sent:
                yield text[sent:settled]
                sent = settled

    def fits(self, prompt: Prompt) -> bool:
        """Say whether the context has room for a token after the prompt."""
        return len(self.tokenizer.encode(prompt.prompt)) < self.context

    def _row(self, prompt: Prompt, settings: Settings) -> _Row:
        ids = self.tokenizer.encode(prompt.prompt)
        end = min(self.context, len(ids) + settings.max_tokens)
        return _Row(prompt, ids, len(ids), end, "" if len(ids) < end else "length")

    @torch.inference_mode()
    def _decode(self, rows: Sequence[_Row], settings: Settings) -> Iterator[None]:
        """Complete all rows together; one yield a token."""
        rows = [row for row in rows if not row.finish]
        if not rows:
            return
        at = min(row.start for row in rows)  # the position to fill next
        cache = self._cache(len(rows), max(row.end for row in rows))
        logits_BV = self._prefill([row.ids[:at] for row in rows], cache)
        while True:
            totals = logits_BV.logsumexp(-1).tolist()
            for row, logits_V, total in zip(rows, logits_BV, totals, strict=True):
                if len(row.ids) == at and not row.finish:
                    self._choose(row, logits_V, total, settings)
            yield
            if all(row.finish for row in rows):
                return
            last = [row.ids[at] if at < len(row.ids) else Tokenizer.eos for row in rows]
            logits_BV = self._forward([[token] for token in last], cache)
            at += 1

    def _cache(self, batch: int, length: int) -> KVCache:
        weight = self.weight
        return KVCache(
            self.model.config, batch=batch, length=length, device=weight.device, dtype=weight.dtype
        )

    def _prefill(self, tokens_BL: list[list[int]], cache: KVCache) -> Tensor:
        step = max(1, FORWARD // len(tokens_BL))
        for start in range(0, len(tokens_BL[0]), step):
            logits_BV = self._forward([row[start : start + step] for row in tokens_BL], cache)
        return logits_BV

    def _forward(self, tokens_BL: list[list[int]], cache: KVCache) -> Tensor:
        """Give the logits (B, V) after the last token, on the CPU, where tokens are chosen."""
        states_BLd = self.model.states(torch.tensor(tokens_BL, device=self.weight.device), cache)
        logits_BV: Tensor = self.model.output(states_BLd[:, -1])
        return logits_BV.float().cpu()

    def _choose(self, row: _Row, logits_V: Tensor, total: float, settings: Settings) -> None:
        number = uniform(settings.seed, row.prompt.id, len(row.logprobs))
        token = draw(logits_V, number, temperature=settings.temperature, top_p=settings.top_p)
        row.ids.append(token)
        row.logprobs.append(float(logits_V[token]) - total)
        if token == Tokenizer.eos:
            row.finish = "eos"
        elif settings.stop and any(stop in self._whole_text(row) for stop in settings.stop):
            row.finish = "stop"
        elif len(row.ids) == row.end:
            row.finish = "length"

    def _whole_text(self, row: _Row) -> str:
        decode = self.tokenizer.decode
        return decode(row.ids)[len(decode(row.ids[: row.start])) :]

    def _text(self, row: _Row, settings: Settings) -> str:
        """Give the completion, up to the first stop string."""
        text = self._whole_text(row)
        found = [at for stop in settings.stop if (at := text.find(stop)) >= 0]
        return text[: min(found)] if found else text

    def _completion(self, row: _Row, settings: Settings) -> Completion:
        return Completion(
            id=row.prompt.id,
            prompt=row.prompt.prompt,
            completion=self._text(row, settings),
            finish=row.finish,
            tokens=row.ids[row.start :],
            logprobs=row.logprobs,
        )

    # -- scoring --

    def loglikelihood(self, pairs: Sequence[Pair], *, batch: int = 16) -> list[float]:
        """Give ln p(continuation | context) of each pair, summed over its tokens.

        Raises:
            ValueError: a context is empty, or a pair is longer than context + 1 tokens.
        """
        for context, continuation in pairs:
            if not context or len(context) + len(continuation) > self.context + 1:
                raise ValueError(
                    f"a pair of {len(context)} and {len(continuation)} tokens does not fit "
                    f"1 to {self.context + 1}"
                )
        order = [i for i, (_, continuation) in enumerate(pairs) if continuation]
        order.sort(key=lambda i: sum(map(len, pairs[i])))
        scores = [0.0] * len(pairs)
        while order:
            longest = sum(map(len, pairs[order[-1]]))
            size = max(1, min(batch, FORWARD // longest))
            order, now = order[:-size], order[-size:]
            for i, score in zip(now, self._score([pairs[i] for i in now]), strict=True):
                scores[i] = score
        return scores

    @torch.inference_mode()
    def _score(self, pairs: Sequence[Pair]) -> list[float]:
        rows = [[*context, *continuation] for context, continuation in pairs]
        longest = max(map(len, rows))
        padded = [[*row, *[Tokenizer.eos] * (longest - len(row))] for row in rows]
        tokens_BL = torch.tensor(padded, device=self.weight.device)
        states_BLd = self.model.states(tokens_BL[:, :-1])
        spans = [(len(context), len(row)) for (context, _), row in zip(pairs, rows, strict=True)]
        # the head is most of a small model: it reads only the states before scored tokens
        parts = zip(states_BLd, tokens_BL, spans, strict=True)
        wanted = [(x[i - 1 : j - 1], tokens[i:j]) for x, tokens, (i, j) in parts]
        logp_N = self._logp(*map(torch.cat, zip(*wanted, strict=True)))
        ends = list(accumulate(j - i for i, j in spans))
        return [float(logp_N[i:j].sum()) for i, j in pairwise([0, *ends])]

    def _logp(self, states_Nd: Tensor, tokens_N: Tensor) -> Tensor:
        """Give ln p of each token after the state before it, in double precision."""
        logp_N = torch.empty(len(tokens_N), dtype=torch.float64)
        for at in range(0, len(tokens_N), HEAD):
            logits_NV = self.model.output(states_Nd[at : at + HEAD]).float()
            chosen_N = logits_NV.gather(1, tokens_N[at : at + HEAD, None])[:, 0]
            logp_N[at : at + HEAD] = chosen_N - logits_NV.logsumexp(-1)
        return logp_N


def _lay_out(model: nn.Module) -> None:
    """Store every matrix column by column."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = module.weight.data.t().contiguous().t()


def _settled(text: str, stops: Iterable[str]) -> int:
    """Count the characters that no later token can change or cut.

    A trailing U+FFFD may be the first bytes of a character, and a text that ends with the
    beginning of a stop string may have to be cut there.

    >>> _settled("to be or\\nQ", ["\\nQ:"])
    8
    """
    text = text.rstrip("\ufffd")
    beginnings = {stop[:length] for stop in stops for length in range(1, len(stop))}
    held = max((len(each) for each in beginnings if text.endswith(each)), default=0)
    return len(text) - held

"""The model as it is run: all new tokens of all rows in one list, each layer's like weights as one.

    row 0: 5 tokens of a prompt ┐
    row 3: its next token       ├─▶ 7 rows of activations ─▶ products ─▶ attention, row by row
    row 4: its next token       ┘

The list has no padding, so rows may be of any lengths, and begin and end when they like. The
products do not see whose a token is (`products`); attention goes row by row, and over a prompt
in blocks that lie where they lie in any batch. So a row gets the same bits in any company.
Legend: N tokens, d width, H heads, G heads of keys and values, D head width, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, rms_norm, scaled_dot_product_attention, silu

from llama_cli.inference.alike import BLOCK
from llama_cli.inference.backend import Piece, Say
from llama_cli.inference.cache import Cache
from llama_cli.inference.graphs import open_graphs
from llama_cli.inference.products import Product, dense, int8, laid_out
from llama_cli.kernels.attention import causal_attention, choose
from llama_cli.kernels.host import Floats
from llama_cli.model.config import ModelConfig
from llama_cli.model.rotary import rotary_table
from llama_cli.model.transformer import Layer, Transformer


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens that attend together: a block of one row, or the next tokens of neighbours."""

    first: int  # in the list of tokens
    slot: int
    start: int  # of the row that is furthest on
    count: int  # of each row
    starts: tuple[int, ...]  # one a row

    @property
    def rows(self) -> int:
        """Slots, from `slot` on."""
        return len(self.starts)


@dataclass(frozen=True, slots=True)
class _Weights:
    """One layer's."""

    attention_norm: Tensor
    wqkv: Product
    wo: Product
    ffn_norm: Tensor
    w13: Product
    w2: Product


class Sharing(Protocol):
    """Processes that have a part of each layer each."""

    @property
    def rank(self) -> int:
        """Which of them this is."""

    @property
    def size(self) -> int:
        """How many they are."""

    def total(self, x: Tensor) -> Tensor:
        """Sum over the processes, in place."""

    def columns(self, x_NV: Tensor) -> Tensor:
        """Put the columns of all beside each other."""


class Network:
    """A model's weights, fused. The model's own become views of them, or go if they are int8.

    Products give the same bits on any number of threads, PyTorch's attention on a CPU other ones
    on one thread than on several. If it is to be `deterministic`, it has one thread. `say` is told
    where tokens take longer than they should.
    """

    at_once = 512  # positions whose logits are held at a time; ours: 64 MB at 32,000 pieces

    def __init__(
        self,
        model: Transformer,
        *,
        quantize: bool = False,
        deterministic: bool = False,
        sharing: Sharing | None = None,
        say: Say = warnings.warn,
    ) -> None:
        self.attend = self._attend_alone if deterministic else self._attend
        self.config: ModelConfig = model.config
        weight = model.tok_embeddings.weight.detach()
        self.device = weight.device
        on_cpu = self.device.type == "cpu"
        self.dtype = torch.float32 if quantize and on_cpu else weight.dtype
        choose(self.device, self.dtype, self.config.head_dim)  # tells of a wrong name now
        self.sharing, among = sharing, sharing.size if sharing else 1
        self.heads, self.key_heads = self.config.heads // among, self.config.key_heads // among
        self.quantize = quantize
        self.norm = model.norm.weight.detach().to(self.dtype)
        self.layers = [self._layer(layer) for layer in model.layers]  # type: ignore[arg-type]
        self.head = self._head(model)
        self.embedding = model.tok_embeddings.weight.detach()  # the head's, if they are tied
        self.turns = torch.empty(0)
        self.threads = torch.get_num_threads()
        self.least = 2 if on_cpu else 1  # rows of a product; oneDNN wants two
        self.graphs = None if sharing else open_graphs(self.device, say)
        self.sound = True  # until a row has no numbers: then what is masked has some that spoil all

    def begin_thread(self) -> None:
        """Take as many threads as whoever made it: each new one begins with all of them."""
        torch.set_num_threads(self.threads)

    def cache(self) -> Cache:
        """Make one without any room."""
        return Cache(self.config, self.key_heads, device=self.device, dtype=self.dtype)

    @torch.inference_mode()
    def states(self, tokens: Sequence[int], pieces: Sequence[Piece], cache: Cache) -> Tensor:
        """Give what the head reads of each token (N, d), and add the tokens to the cache."""
        if self.graphs and self.sound:
            done = self.graphs.states(self, tokens, pieces, cache)
            if done is not None:
                return done
        count = len(tokens)
        at = [place for each in pieces for place in range(each.start, each.start + each.count)]
        slots = [each.slot for each in pieces for _ in range(each.count)]
        if count < self.least:
            tokens, at, slots = [*tokens] * 2, at * 2, slots * 2
        ids_N, at_N, slots_N = torch.tensor([tokens, at, slots], device=self.device)
        turns_N = self.turns_of(cache.length)[at_N][:, None]
        on_cpu = self.device.type == "cpu"
        spans = list(spans_of(pieces, apart=on_cpu or not self.sound, blocks=on_cpu))
        places_N = slots_N * cache.length + at_N
        x_Nd = embedding(ids_N, self.embedding).to(self.dtype)
        for index, layer in enumerate(self.layers):
            n_Nd = self.normal(x_Nd, layer.attention_norm)
            qkv_NHD = self._turned(layer.wqkv(n_Nd), turns_N)
            q_NHD, kv_NHD = qkv_NHD.tensor_split([self.heads], 1)
            cache.write(index, places_N, kv_NHD)
            seen_Nd = self.attend(q_NHD, cache.kv_NSTHD[index], spans).flatten(1)
            x_Nd = self._total(layer.wo(seen_Nd)).add_(x_Nd)
            a, b = layer.w13(self.normal(x_Nd, layer.ffn_norm)).chunk(2, 1)
            x_Nd = self._total(layer.w2(silu(a).mul_(b))).add_(x_Nd)
        return self.normal(x_Nd[:count], self.norm)

    @torch.inference_mode()
    def logits(self, states_Nd: Tensor) -> Floats:
        """Give the logits (N, V) after states, in fp32 on the CPU, where tokens are chosen."""
        enough_Nd = states_Nd if len(states_Nd) >= self.least else states_Nd.repeat(2, 1)
        logits_NV = self.head(enough_Nd)[: len(states_Nd)]
        whole_NV = (self.sharing.columns(logits_NV) if self.sharing else logits_NV).float()
        if self.device.type == "cuda":  # to memory that it writes by itself
            pinned_NV = torch.empty(whole_NV.shape, dtype=whole_NV.dtype, pin_memory=True)
            whole_NV = pinned_NV.copy_(whole_NV)
        on_cpu_NV: Floats = whole_NV.cpu().numpy()
        return on_cpu_NV

    def summary(self, logits_NV: Floats) -> tuple[list[int], Floats]:
        """Give the first of the largest of each row, and ln of the sum of e to each logit."""
        totals_N = torch.from_numpy(logits_NV).logsumexp(-1)
        self.sound = self.sound and bool(totals_N.isfinite().all())
        found_N: Floats = totals_N.numpy()
        return logits_NV.argmax(-1).tolist(), found_N

    def _total(self, x_Nd: Tensor) -> Tensor:
        return self.sharing.total(x_Nd) if self.sharing else x_Nd

    def _layer(self, layer: Layer) -> _Weights:
        attention, feed_forward = layer.attention, layer.feed_forward
        return _Weights(
            layer.attention_norm.weight.detach().to(self.dtype),
            self._fused([attention.wq, attention.wk, attention.wv]),
            self._fused([attention.wo]),
            layer.ffn_norm.weight.detach().to(self.dtype),
            self._fused([feed_forward.w1, feed_forward.w3]),
            self._fused([feed_forward.w2]),
        )

    def _head(self, model: Transformer) -> Product:
        sharing = self.sharing
        if not (sharing and self.config.tied):
            return self._fused([model.output])
        return dense(model.output.weight.detach().chunk(sharing.size)[sharing.rank])

    def _fused(self, parts: Sequence[nn.Linear]) -> Product:
        weights = [part.weight.detach() for part in parts]
        if self.quantize:
            for part in parts:
                del part.weight
            return int8(torch.cat(weights) if len(weights) > 1 else weights[0])
        whole = laid_out(torch.cat(weights) if len(weights) > 1 else weights[0])
        for part, view in zip(parts, torch.split(whole, [len(w) for w in weights]), strict=True):
            part.weight.data = view
        return dense(whole)

    def normal(self, x_Nd: Tensor, weight: Tensor) -> Tensor:
        """Norm rows, and weigh them."""
        return rms_norm(x_Nd, weight.shape, weight, self.config.norm_eps)

    def turns_of(self, length: int) -> Tensor:
        """Give the rotation of each position, as complex numbers."""
        if len(self.turns) < length:
            config = self.config
            table = rotary_table(0, length, config.head_dim, config.rope_theta, self.device)
            self.turns = torch.complex(*table)
        return self.turns

    def _turned(self, qkv_Nd: Tensor, turns_N: Tensor) -> Tensor:
        """Cut rows into heads, of which queries and keys are turned to their position."""
        config = self.config
        qkv_NHD = qkv_Nd.view(len(qkv_Nd), -1, config.head_dim)
        turned = qkv_NHD[:, : self.heads + self.key_heads]
        wide = turned.float() if self.dtype != torch.float32 else turned
        torch.view_as_complex(wide.view(*wide.shape[:-1], -1, 2)).mul_(turns_N)
        if wide is not turned:
            turned.copy_(wide)
        return qkv_NHD

    def _attend_alone(self, q_NHD: Tensor, kv_STHD: Tensor, spans: Sequence[Span]) -> Tensor:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._attend(q_NHD, kv_STHD, spans)
        finally:
            torch.set_num_threads(threads)

    def _attend(self, q_NHD: Tensor, kv_STHD: Tensor, spans: Sequence[Span]) -> Tensor:
        if len(spans) == 1:
            count = spans[0].rows * spans[0].count
            return _span(q_NHD[:count], kv_STHD, spans[0]).expand(len(q_NHD), -1, -1)
        out_NHD = torch.empty_like(q_NHD)
        for span in spans:
            part = slice(span.first, span.first + span.rows * span.count)
            out_NHD[part] = _span(q_NHD[part], kv_STHD, span)
        return out_NHD


def spans_of(pieces: Sequence[Piece], *, apart: bool, blocks: bool) -> Iterator[Span]:
    """Join the next tokens of neighbours, `apart` only of those at the same place; cut `blocks`.

    >>> pieces = [Piece(0, 9, 1), Piece(1, 9, 1), Piece(2, 5, 1), Piece(4, 5, 1)]
    >>> [[(s.slot, s.rows) for s in spans_of(pieces, apart=x, blocks=x)] for x in (True, False)]
    [[(0, 2), (2, 1), (4, 1)], [(0, 3), (4, 1)]]
    """
    first, held = 0, None
    for piece in pieces:
        if held and _follows(held, piece, apart=apart):
            start = max(held.start, piece.start)
            held = Span(held.first, held.slot, start, 1, (*held.starts, piece.start))
        else:
            *before, last = _cut(first, piece, blocks=blocks)
            yield from [held, *before] if held else before
            held = last
        first += piece.count
    if held:
        yield held


def _follows(span: Span, piece: Piece, *, apart: bool) -> bool:
    beside = span.count == piece.count == 1 and span.slot + span.rows == piece.slot
    return beside and (span.start == piece.start or not apart)


def _cut(first: int, piece: Piece, *, blocks: bool) -> Iterator[Span]:
    at, end = piece.start, piece.start + piece.count
    while at < end:
        stop = min(end, at - at % BLOCK + BLOCK) if blocks else end
        yield Span(first + at - piece.start, piece.slot, at, stop - at, (at,))
        at = stop


def _span(q_NHD: Tensor, kv_STHD: Tensor, span: Span) -> Tensor:
    """Attend from the tokens of a span to those before them, and themselves."""
    end = span.start + span.count
    kv = kv_STHD[span.slot : span.slot + span.rows, :end].transpose(1, 2)
    k, v = kv.chunk(2, 1)  # (B, G, T, D)
    if span.count > 1:
        return causal_attention(q_NHD.transpose(0, 1)[None], k, v)[0].transpose(0, 1)
    seen = _seen(span, kv.device) if min(span.starts) < span.start else None
    grouped = q_NHD.shape[1] != k.shape[1]
    q = q_NHD[:, :, None]  # (B, H, 1, D)
    return scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=grouped)[:, :, 0]


def _seen(span: Span, device: torch.device) -> Tensor:
    """Mark the places that each row has filled, (B, 1, 1, T)."""
    starts = torch.tensor(span.starts, device=device)[:, None, None, None]
    return torch.arange(span.start + 1, device=device) <= starts

"""A step in which every row brings one token: the same work on the same memory each time.

So a GPU can be told all of it at once (`graphs`). Nothing here asks a tensor for its value, and no
shape depends on one: which tokens, where, and of which rows is in one small tensor of four lines.

    slots of the cache   0  1  2  3  4  5  6  7
    rows                    a     b  c            brought by 1, 3 and 4
    window                  └────────┘            first 0, rows 8: what else is in it pads

A window's rows are neighbouring slots, so attention reads keys and values where they lie, and a
mask hides the places a row has not filled; what is hidden must be numbers (`Network.sound`). A row
that pads reads the first place of its slot, and writes the spare one.
Legend: N rows of the window, d width, H heads, G heads of keys and values, D head width, P pairs
of it, T places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import embedding, scaled_dot_product_attention, silu

from llama_cli.inference import products
from llama_cli.inference.backend import Piece
from llama_cli.inference.cache import Cache
from llama_cli.inference.split import hiding, in_parts

if TYPE_CHECKING:
    from llama_cli.inference.network import Network

LEAST = 256  # places by which windows differ in length, at least; ours
FINE = 4  # lengths of a window between two powers of two; ours: past 1,024, a quarter too much


@dataclass(frozen=True, slots=True)
class Window:
    """Neighbouring slots, and how many of their places are read."""

    first: int
    rows: int
    length: int


def window_of(pieces: Sequence[Piece], slots: int, length: int) -> Window:
    """Give a window of few sizes about the slots of rows, in a cache of so many and so long.

    >>> window_of([Piece(1, 90, 1), Piece(3, 300, 1), Piece(4, 9, 1)], 32, 2048)
    Window(first=0, rows=8, length=512)
    >>> window_of([Piece(12, 1100, 1)], 16, 2048)
    Window(first=12, rows=1, length=1280)
    """
    low, high = (f(each.slot for each in pieces) for f in (min, max))
    rows, first = 1, low
    while first + rows <= high:
        rows *= 2
        first = low - low % (rows // 2)
    most = max(each.start for each in pieces) + 1
    return Window(first, min(rows, slots - first), min(_rounded(most), length))


def _rounded(length: int) -> int:
    step = max(LEAST, (1 << (length - 1).bit_length()) // (2 * FINE))
    return -(-length // step) * step


def given(
    tokens: Sequence[int], pieces: Sequence[Piece], window: Window, length: int
) -> list[list[int]]:
    """Say of each row its token, position and place in the cache, and which row each piece is.

    >>> given([7], [Piece(1, 5, 1)], Window(0, 2, 64), 64)
    [[0, 7], [0, 5], [63, 69], [1, 0]]
    """
    ids, at = [0] * window.rows, [0] * window.rows
    places = [(window.first + row + 1) * length - 1 for row in range(window.rows)]
    order = [each.slot - window.first for each in pieces]
    for token, row, piece in zip(tokens, order, pieces, strict=True):
        ids[row], at[row], places[row] = token, piece.start, piece.slot * length + piece.start
    return [ids, at, places, order + [0] * (window.rows - len(order))]


@dataclass(frozen=True, slots=True)
class Turns:
    """How heads turn at each position: what the first and the second of a pair are multiplied with.

    Queries and keys turn (kind 0), values do not (1), so one pass does for all heads.
    """

    table_LK2P2: Tensor  # L positions, K kinds
    kinds_H: Tensor  # of all heads, those of keys and values too

    def at(self, at_N: Tensor) -> Tensor:
        """Give those of rows, (N, H + 2G, 2, P, 2)."""
        return self.table_LK2P2[at_N[:, None], self.kinds_H]


def turns_of(network: Network, length: int) -> Turns:
    """Give how heads turn at so many positions."""
    turns_LP = network.turns_of(length)
    turning = torch.view_as_real(torch.stack([turns_LP, 1j * turns_LP], 1))  # (L, 2, P, 2)
    still = torch.eye(2, device=network.device)[:, None].expand_as(turning)
    heads = torch.tensor([network.heads + network.key_heads, network.key_heads])
    kinds_H = torch.arange(2).repeat_interleave(heads).to(network.device)
    return Turns(torch.stack([turning, still], 1), kinds_H)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a step is done."""

    window: Window
    turns: Turns
    parts: int = 1  # in which attention reads places (`split`)


def step(network: Network, plan: Plan, cache: Cache, given_4N: Tensor) -> Tensor:
    """Do it: give what the head reads of each piece, (N, d), and add the tokens to the cache."""
    ids_N, at_N, places_N, order_N = given_4N.unbind()
    window = plan.window
    rows = slice(window.first, window.first + window.rows)
    turns_NH2P2 = plan.turns.at(at_N)
    places_T = torch.arange(window.length, device=at_N.device)
    hidden_N11T = hiding(places_T > at_N[:, None], network.dtype)[:, None, None]  # for all layers
    x_Nd = embedding(ids_N, network.embedding).to(network.dtype)
    for index, layer in enumerate(network.layers):
        qkv_Nd = layer.wqkv(network.normal(x_Nd, layer.attention_norm))
        q_NHD, kv_NHD = _turned(qkv_Nd, turns_NH2P2).tensor_split([network.heads], 1)
        cache.write(index, places_N, kv_NHD)
        kv_NTHD = cache.kv_NSTHD[index, rows, : window.length]
        products.add(layer.wo, x_Nd, _attend(q_NHD, kv_NTHD, hidden_N11T, plan.parts))
        a, b = layer.w13(network.normal(x_Nd, layer.ffn_norm)).chunk(2, 1)
        products.add(layer.w2, x_Nd, silu(a).mul_(b))
    return network.normal(x_Nd[order_N], network.norm)


def _turned(qkv_Nd: Tensor, turns_NH2P2: Tensor) -> Tensor:
    """Cut rows into heads, and turn them to their position, (N, H + 2G, D), in two kernels."""
    first, second = turns_NH2P2.unbind(2)
    pairs = qkv_Nd.view(first.shape)
    turned = torch.empty_like(pairs)
    torch.addcmul(pairs[..., :1] * first, pairs[..., 1:], second, out=turned)
    return turned.flatten(2)


def _attend(q_NHD: Tensor, kv_NTHD: Tensor, hidden_N11T: Tensor, parts: int) -> Tensor:
    """Attend, (N, d): the heads that share a key head are as many queries of it, copied nowhere."""
    k, v = kv_NTHD.transpose(1, 2).chunk(2, 1)  # (N, G, T, D)
    q = q_NHD.view(len(k), k.shape[1], -1, k.shape[-1])
    if parts > 1:
        return in_parts(q, k, v, hidden_N11T, parts).flatten(1)
    return scaled_dot_product_attention(q, k, v, attn_mask=hidden_N11T).flatten(1)

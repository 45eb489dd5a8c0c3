"""Two ranks that share a model give what one gives: their weights are halves, and so their work.

The ranks are threads, and their exchange is a desk on which each puts what it sends. What is
waited for before it was sent, or in another order, ends the test.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from llama_cli.kernels.documents import document_bounds
from llama_cli.model.config import ACTIVATIONS, Activations, ModelConfig
from llama_cli.model.exchange import ALONE, gathered, scattered
from llama_cli.model.rotary import rotary_table
from llama_cli.model.transformer import Transformer, init_weights

RANKS, BATCH, LENGTH = 2, 2, 12
CONFIG = ModelConfig(dim=64, layers=2, heads=4, hidden=96, vocab_size=50, context=LENGTH)
ROWS = ("wq", "wk", "wv", "w1", "w3", "tok_embeddings", "output")  # split by rows
COLUMNS = ("wo", "w2")
SECONDS = 60


class Desk:
    """Where the ranks lay what they send: (kind, number of the call) -> by rank."""

    def __init__(self) -> None:
        self.sent: dict[tuple[str, int], dict[int, Tensor]] = {}
        self.changed = threading.Condition()

    def put(self, kind: str, number: int, rank: int, x: Tensor) -> None:
        with self.changed:
            self.sent.setdefault((kind, number), {})[rank] = x.detach().clone()
            self.changed.notify_all()

    def take(self, kind: str, number: int) -> list[Tensor]:
        with self.changed:
            there = self.changed.wait_for(
                lambda: len(self.sent.get((kind, number), {})) == RANKS, SECONDS
            )
            assert there, f"no partner for call {number}, {kind}"
            found = self.sent[kind, number]
        return [found[rank] for rank in range(RANKS)]


class Sent:
    def __init__(self, take: Callable[[], Tensor]) -> None:
        self.take = take

    def wait(self) -> Tensor:
        return self.take()


class Side:
    """One rank's exchange."""

    size = RANKS

    def __init__(self, desk: Desk, rank: int) -> None:
        self.desk, self.rank, self.calls = desk, rank, 0
        self.shared: set[int] = set()
        self.events: list[str] = []

    def _send(self, kind: str, x: Tensor, merge: Callable[[list[Tensor]], Tensor]) -> Sent:
        self.calls += 1
        number = self.calls
        assert x.is_contiguous()
        self.desk.put(kind, number, self.rank, x)
        self.events.append(kind)

        def take() -> Tensor:
            self.events.append(f"{kind}-here")
            return merge(self.desk.take(kind, number))

        return Sent(take)

    def gather(self, x: Tensor) -> Sent:
        return self._send("gather", x, lambda parts: torch.cat(parts, 1))

    def scatter(self, y: Tensor) -> Sent:
        return self._send(
            "scatter", y, lambda parts: sum(parts[1:], parts[0]).chunk(RANKS, 1)[self.rank]
        )

    def total(self, x: Tensor) -> Tensor:
        return self._send("total", x, lambda parts: sum(parts[1:], parts[0])).wait()

    def largest(self, x: Tensor) -> Tensor:
        return self._send("largest", x, lambda parts: torch.stack(parts).amax(0)).wait()

    def local(self, weight: Tensor, *, shared: bool = False) -> Tensor:
        if shared:
            self.shared.add(id(weight))
        return weight


def on_ranks(work: Callable[[Side], Any]) -> list[Any]:
    desk = Desk()
    with ThreadPoolExecutor(RANKS) as pool:
        return list(pool.map(work, [Side(desk, rank) for rank in range(RANKS)]))


def part(name: str, weight: Tensor, rank: int) -> Tensor:
    """Give a rank's part of a parameter."""
    kind = name.removesuffix(".weight").rpartition(".")[2]
    if kind in ROWS:
        return weight.chunk(RANKS, 0)[rank]
    return weight.chunk(RANKS, 1)[rank] if kind in COLUMNS else weight


def whole_model(activations: Activations = "keep") -> Transformer:
    model = Transformer(CONFIG, activations=activations)
    init_weights(model, 0)
    draw = torch.Generator().manual_seed(1)
    for weight in model.parameters():  # norms too: not all ones
        weight.data.mul_(1 + 0.3 * torch.randn(weight.shape, generator=draw))
    return model.double()


def split_model(side: Side, activations: Activations) -> Transformer:
    model = Transformer(CONFIG, activations=activations, exchange=side)
    for name, weight in whole_model().named_parameters():
        own = nn.Parameter(part(name, weight.detach(), side.rank).clone())
        *path, last = name.split(".")
        setattr(model.get_submodule(".".join(path)), last, own)
    return model


def inputs(documents: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    draw = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, CONFIG.vocab_size, (BATCH, LENGTH), generator=draw)
    gradient = torch.randn(BATCH, LENGTH, CONFIG.vocab_size, generator=draw).double()
    bounds = document_bounds(torch.tensor([0, 3, 12, 17, 24]), BATCH, LENGTH)
    return tokens, gradient, bounds if documents else None


def close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-10 * expected.abs().max())


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_ranks_that_share_the_layers_give_the_logits_and_gradients_of_one(
    activations: Activations, documents: bool
) -> None:
    tokens, gradient, bounds = inputs(documents)
    alone = whole_model()
    logits = alone(tokens, bounds=bounds)
    logits.backward(gradient)

    def work(side: Side) -> tuple[Tensor, dict[str, Tensor]]:
        model = split_model(side, activations)
        own = model(tokens, bounds=bounds)
        own.backward(gradient.chunk(RANKS, -1)[side.rank])
        found = {}
        for name, weight in model.named_parameters():
            assert weight.grad is not None
            shared = id(weight) in side.shared
            found[name] = side.total(weight.grad) if shared else weight.grad
        return own.detach(), found

    for rank, (own, gradients) in enumerate(on_ranks(work)):
        assert close(own, logits.detach().chunk(RANKS, -1)[rank])
        for name, weight in alone.named_parameters():
            assert weight.grad is not None
            assert close(gradients[name], part(name, weight.grad, rank)), name


def test_weights_that_all_ranks_hold_are_said_to_be_shared() -> None:
    def work(side: Side) -> int:
        model = split_model(side, "linear")
        model(inputs(False)[0])
        norms = {id(weight) for weight in model.parameters() if weight.dim() == 1}
        assert side.shared == norms
        return len(norms)

    assert on_ranks(work) == [5, 5]


SENT_AND_DONE = """
    gather gather gather-here product product product
    scatter gather-here product scatter-here
    gather product gather gather-here product product product
    scatter gather-here product product product scatter-here
"""


def test_the_backward_by_hand_works_while_what_it_sends_is_under_way() -> None:
    """Products stand between what is sent and what is waited for: gradients of weights."""

    def work(side: Side) -> list[str]:
        layer = split_model(side, "linear").layers[0]
        x = torch.randn(BATCH, LENGTH // RANKS, CONFIG.dim).double().requires_grad_()
        y = layer(x, rotary_table(0, LENGTH, CONFIG.head_dim, 1e4, x.device))
        side.events.clear()
        with Products(side.events):
            y.backward(torch.ones_like(y))
        return side.events

    assert on_ranks(work) == [SENT_AND_DONE.split()] * RANKS


class Products(TorchDispatchMode):
    """Note every matrix product."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.mm.default:
            self.events.append("product")
        return func(*args, **(kwargs or {}))


def test_gather_and_scatter_are_each_others_adjoint() -> None:
    """<gather(x), y> summed over the ranks is <x, scatter(y)> summed over the ranks."""
    draw = torch.Generator().manual_seed(3)
    xs = torch.randn(RANKS, BATCH, LENGTH // RANKS, 4, generator=draw).double()
    ys = torch.randn(RANKS, BATCH, LENGTH, 4, generator=draw).double()

    def work(side: Side) -> tuple[Tensor, ...]:
        x = xs[side.rank].clone().requires_grad_()
        y = ys[side.rank].clone().requires_grad_()
        there, back = gathered(x, side), scattered(y, side)
        there.backward(ys[side.rank])
        back.backward(xs[side.rank])
        assert x.grad is not None
        assert y.grad is not None
        return there.detach(), back.detach(), x.grad, y.grad

    (there0, back0, gx0, gy0), (there1, back1, gx1, gy1) = on_ranks(work)
    left = (there0 * ys[0]).sum() + (there1 * ys[1]).sum()
    right = (back0 * xs[0]).sum() + (back1 * xs[1]).sum()
    assert torch.allclose(left, right)
    assert torch.equal(gx0, back0)
    assert torch.equal(gx1, back1)
    assert torch.equal(gy0, there0)
    assert torch.equal(gy1, there1)


def test_who_is_alone_has_everything() -> None:
    x = torch.randn(2, 3, 4, requires_grad=True)
    assert (ALONE.size, ALONE.rank) == (1, 0)
    assert gathered(x, ALONE) is x
    assert scattered(x, ALONE) is x
    assert ALONE.gather(x).wait() is x
    assert ALONE.scatter(x).wait() is x
    assert ALONE.total(x) is x
    assert ALONE.largest(x) is x
    assert ALONE.local(x, shared=True) is x

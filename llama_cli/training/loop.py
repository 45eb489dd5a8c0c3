"""One step of training: the arithmetic, without files, clocks or words.

Cross-entropy of the next token, gradients clipped to norm 1, AdamW at the rate of the
schedule. In bf16 the matrix products are bf16 (autocast); weights, gradients, optimizer,
norms and the loss stay fp32. Legend: B sequences, L length.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from llama_cli.model.transformer import Transformer
from llama_cli.training.loss import head_loss
from llama_cli.training.optimizer import CLIP, make_optimizer
from llama_cli.training.schedule import learning_rate
from llama_cli.training.settings import Settings

States = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did."""

    step: int
    loss: float  # nats a token, before the update
    lr: float
    grad_norm: float  # before clipping


class Trainer:
    """A model, its optimizer, and how to move both one step."""

    def __init__(
        self,
        model: Transformer,
        settings: Settings,
        *,
        micro_batch: int | None = None,
        compile: bool = False,
    ) -> None:
        """Take a model that is on its device.

        Args:
            model: with fp32 weights.
            settings: the schedule and the dtype.
            micro_batch: sequences that go through the model at once; None for all.
            compile: let torch.compile fuse the model; the head has a fused loss of its own.
        """
        self.model, self.settings = model, settings
        self.micro_batch = micro_batch or settings.batch
        self.optimizer = make_optimizer(model)
        self.device = next(model.parameters()).device
        self.states: States = torch.compile(model.states) if compile else model.states

    def step(self, number: int, tokens: Tensor) -> Step:
        """Train on sequences (B, L + 1); `number` counts from 1."""
        loss = self._backward(tokens)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        s = self.settings
        lr = learning_rate(number, steps=s.steps, warmup=s.warmup, peak=s.lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return Step(number, loss, lr, float(norm))

    @torch.no_grad()
    def evaluate(self, tokens: Tensor) -> float:
        """Give the mean loss over sequences (B, L + 1), nats a token; one sequence at a time."""
        total = 0.0
        for row in tokens.to(self.device):
            with self._autocast():
                logits = self.model(row[None, :-1])
            total += cross_entropy(logits[0].float(), row[1:]).item()
        return total / len(tokens)

    def _backward(self, tokens: Tensor) -> float:
        total = 0.0
        for part in torch.split(tokens, self.micro_batch):
            with self._autocast():
                loss = self._loss(part.to(self.device)) * (len(part) / len(tokens))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total

    def _loss(self, tokens: Tensor) -> Tensor:
        states = self.states(tokens[:, :-1])
        head = self.model.output.weight
        return head_loss(states.flatten(0, 1), head, tokens[:, 1:].flatten())

    def _autocast(self) -> AbstractContextManager[object]:
        if self.settings.dtype == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

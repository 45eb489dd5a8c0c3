"""One step of training: the arithmetic, without files, clocks or words.

Cross-entropy of the next token, gradients clipped to norm 1, AdamW at the rate of the
schedule. In bf16 the matrix products are bf16; weights, gradients, optimizer, norms and the
loss stay fp32. On a mesh every rank is given its rows of the same global batch, and the step is
the same as that of one process, up to the order of additions. Legend: B sequences, L length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from llama_cli.errors import LlamaError
from llama_cli.model.stored import Slice
from llama_cli.model.transformer import Transformer
from llama_cli.parallel.fsdp import keeps_whole_gradients, reduce_now, release, shard
from llama_cli.parallel.mesh import ONE, Mesh
from llama_cli.parallel.slices import draw_weights, parts
from llama_cli.parallel.tensor import sum_shared
from llama_cli.training.batch import Batch
from llama_cli.training.loss import Objective
from llama_cli.training.optimizer import clip, count_steps, make_optimizer, moments
from llama_cli.training.schedule import learning_rate
from llama_cli.training.settings import Settings


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did, the same on every rank."""

    step: int
    loss: float  # nats a token, before the update
    lr: float
    grad_norm: float  # before clipping
    flags: tuple[bool, ...] = ()  # raised by any rank
    taken: bool = True  # False: the weights are as they were


class Trainer:
    """A model, its optimizer, and how to move both one step."""

    def __init__(
        self,
        model: Transformer,
        settings: Settings,
        *,
        micro_batch: int | None = None,
        compile: bool = False,
        mesh: Mesh = ONE,
        reshard: bool = True,
    ) -> None:
        """Take a model that is split over the tensor axis (`parallel.tensor.split`).

        Args:
            model: with fp32 weights on its device; or on "meta", and `draw_weights` or a
                checkpoint fills `slices`.
            settings: the schedule and the dtype.
            micro_batch: sequences that go through the model at once; None for all.
            compile: let torch.compile fuse each layer; the head has a fused loss of its own.
            mesh: of the ranks; all of them make the same calls.
            reshard: keep a layer's weights in parts between its forward and its backward.
        """
        self.model, self.settings, self.mesh = model, settings, mesh
        self.micro_batch = micro_batch or settings.batch
        self.objective = Objective(model)
        if compile:
            for layer in model.layers:  # one graph for all; FSDP's hooks stay around it
                layer.forward = torch.compile(layer.forward)
        if mesh.data > 1:
            bf16 = settings.dtype == "bf16"
            shard(self.objective, model, mesh, bf16=bf16, reshard=reshard)
        if next(model.parameters()).is_meta:
            self.objective.to_empty(device=mesh.device)
            model.tie()
        self.parts = parts(model, mesh)
        self.optimizer = make_optimizer(self.parts)
        self.device = self.parts[0].local.device
        self._checked = False

    def draw_weights(self) -> None:
        """Set the first weights, which follow from the seed alone."""
        draw_weights(self.parts, self.model.config, self.settings.seed)

    def begin(self) -> None:
        """Go to before the first step, also from later ones."""
        for held in moments(self.parts, self.optimizer):
            held.tensor.zero_()
        self.draw_weights()
        self.continue_after(0)

    def slices(self) -> Iterator[Slice]:
        """Yield this rank's part of every weight, then of every moment.

        Names are NAME, `exp_avg.NAME` and `exp_avg_sq.NAME`, in one order on all ranks. The
        tensors are those that training uses: what is written into them is continued from.
        """
        yield from (part.held for part in self.parts)
        yield from moments(self.parts, self.optimizer)

    def continue_after(self, step: int) -> None:
        """Count `step` steps as done, once a checkpoint's slices are in place."""
        count_steps(self.optimizer, step)

    def step(
        self,
        number: int,
        batch: Batch | Tensor,
        *,
        flags: Sequence[bool] = (),
        accept: Callable[[float, float], bool] | None = None,
    ) -> Step:
        """Train on this rank's rows of a batch, sequences (B, L + 1); `number` counts from 1.

        Args:
            number: of the step.
            batch: this rank's rows.
            flags: every rank learns which of them any raised, at no further cost.
            accept: says from loss and gradient norm, the same on every rank, whether to move the
                weights. A GPU waits for the answer, so it is asked only if given.

        Raises:
            LlamaError: in the first step, some weight has no gradient.
        """
        batch = batch if isinstance(batch, Batch) else Batch(batch)
        loss = self._backward(batch)
        gradients = self._gradients()
        if not self._checked and batch.tokens.shape[1] > 2:  # one position attends to itself only
            self._check_gradients()
            self._checked = True
        loss, norm, raised = self._agree(loss, gradients, flags)
        lr = self._rate(number)
        taken = accept is None or accept(float(loss), float(norm))
        if taken:
            self._update(norm, lr)
        self._forget_gradients()
        told = tuple(x > 0 for x in raised.tolist())
        return Step(number, float(loss), lr, float(norm), told, taken)

    def _rate(self, number: int) -> float:
        s = self.settings
        return learning_rate(number, steps=s.steps, warmup=s.warmup, peak=s.lr, start=s.warmup_from)

    def _update(self, norm: Tensor, lr: float) -> None:
        clip(self.optimizer, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()

    @torch.no_grad()
    def evaluate(self, batch: Batch | Tensor) -> float:
        """Give the mean loss over sequences (B, L + 1), nats a token; one sequence at a time.

        Every rank is given all of them, and takes its share.
        """
        batch = batch if isinstance(batch, Batch) else Batch(batch)
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        one = torch.ones((), dtype=torch.int64, device=self.device)
        rows, mesh = list(batch.split(1)), self.mesh
        for start in range(0, len(rows), mesh.data):
            at = start + mesh.data_rank
            row = rows[at] if at < len(rows) else rows[0].ignored()  # all make the same calls
            found = self._loss(row.to(self.device), one)
            total += torch.stack((found.double(), total.new_tensor(float(row.counted))))
        release(self.objective)
        loss, count = (mesh.total(total) if mesh.size > 1 else total).tolist()
        return float(loss / count)

    def _backward(self, batch: Batch) -> Tensor:
        """Add up gradients; give this rank's part of the loss of the whole batch."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        count = self._count(batch)
        micro = list(batch.split(self.micro_batch))
        whole = keeps_whole_gradients(self.model.config.parameters, self.mesh)
        for number, part in enumerate(micro, 1):
            reduce_now(self.objective, number == len(micro) or not whole)
            loss = self._loss(part.to(self.device), count)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _count(self, batch: Batch) -> Tensor:
        """Count the tokens of all ranks that are to be predicted."""
        count = torch.tensor(batch.counted, device=self.device)
        if self.mesh.data == 1:
            return count
        if batch.counts is None:
            return count * self.mesh.data
        return self.mesh.total(count) // self.mesh.tensor

    def _loss(self, batch: Batch, count: Tensor) -> Tensor:
        tokens, targets = batch.tokens[:, :-1], batch.targets
        with self._autocast():
            loss: Tensor = self.objective(tokens, targets, count, batch.bounds)
        return loss

    def _gradients(self) -> list[Tensor]:
        """Let the optimizer see the gradients, and list those that this rank counts."""
        for part in self.parts:
            if part.gradient is not None:
                part.local.grad = part.gradient
        found = [(part, part.local.grad) for part in self.parts if part.local.grad is not None]
        norms = [grad for part, grad in found if part.is_norm]
        sum_shared(norms, self.mesh)
        rest = [grad for part, grad in found if not part.is_norm]
        if self.mesh.tensor == 1:
            return [grad for _, grad in found]
        return norms + rest if self.mesh.tensor_rank == 0 else rest

    def _check_gradients(self) -> None:
        """Refuse to train on when a weight is not trained.

        PyTorch 2.13.0 loses the embedding's gradient where compiled layers are split, and the
        loss does not show it (github.com/pytorch/pytorch/pull/191113).
        """
        present = torch.tensor(
            [part.local.grad is not None and bool(part.local.grad.any()) for part in self.parts],
            dtype=torch.float32,
            device=self.device,
        )
        for part, there in zip(self.parts, self.mesh.largest(present).tolist(), strict=True):
            if not there:
                raise LlamaError(
                    f"{part.held.name} has no gradient: PyTorch {torch.__version__} lost it",
                    hint="llama train --no-compile",
                )

    def _agree(
        self, loss: Tensor, gradients: Sequence[Tensor], flags: Sequence[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give the loss and the norm over all ranks, and how many ranks raised each flag."""
        norm = get_total_norm(gradients)
        raised = torch.tensor(flags, dtype=torch.float64, device=self.device)
        if self.mesh.size == 1:
            return loss, norm, raised
        # the ranks of a tensor group have the same loss, and replicas the same gradients
        square = norm.double().square() / self.mesh.replicas
        told = torch.stack((loss / self.mesh.tensor, square))
        told = self.mesh.total(torch.cat((told, raised)))
        return told[0], told[1].sqrt().to(norm.dtype), told[2:]

    def _forget_gradients(self) -> None:
        if self.mesh.size == 1:
            self.objective.reuse_gradient()
        for part in self.parts:
            part.weight.grad = part.local.grad = None

    def _autocast(self) -> AbstractContextManager[object]:
        if self.settings.dtype == "fp32" or self.mesh.data > 1:  # FSDP's weights are narrow
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

"""Training steps a second of our model beside transformers' LlamaForCausalLM of the same shape.

Same loop, same optimizer, same data, eager, fp32, batch 4 x 256; steps taken in turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from llama_cli.model.config import SIZES
from llama_cli.model.transformer import Transformer, init_weights
from tests.bench.run import Row

SIZE, BATCH, LENGTH, ROUNDS = "15m", 4, 256, 20


def rows() -> Iterator[Row]:
    """Take steps in turns and compare the medians."""
    torch.set_num_threads(2)
    tokens = torch.randint(
        0, 32_000, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(0)
    )
    ours, peer = _step(_our_model(), tokens), _step(_peer_model(), tokens)
    pairs = [_turn(ours, peer, number) for number in range(ROUNDS + 1)][1:]  # the first warms up
    mine, theirs = zip(*pairs, strict=True)
    ratio = statistics.median(b / a for a, b in pairs)
    yield Row(
        f"training step, {SIZE}, fp32, eager (peer: transformers)",
        f"{BATCH * LENGTH / statistics.median(mine):.0f} tokens/s",
        f"{BATCH * LENGTH / statistics.median(theirs):.0f} tokens/s",
        ratio,
    )


def _our_model() -> nn.Module:
    model = Transformer(SIZES[SIZE])
    init_weights(model, 0)
    return model


def _peer_model() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = SIZES[SIZE]
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.dim,
            intermediate_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            tie_word_embeddings=False,
        )
    )
    return _Logits(model)


class _Logits(nn.Module):
    """Give the logits alone, as our model does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model(tokens, use_cache=False).logits
        return logits


def _step(model: nn.Module, tokens: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)

    def step() -> None:
        logits = model(tokens[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _turn(ours: Callable[[], None], peer: Callable[[], None], number: int) -> tuple[float, float]:
    """Time both, the other first each time: whoever comes second meets a warm cache."""
    if number % 2:
        return _seconds(ours), _seconds(peer)
    second = _seconds(peer)
    return _seconds(ours), second


def _seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start

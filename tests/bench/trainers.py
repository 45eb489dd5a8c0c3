"""The two trainers that are compared: ours, as `llama train` makes it, and transformers' model.

Both are given the same first weights, schedule, clipping, AdamW (fused; norms do not decay) and
bf16 (autocast over fp32 weights). The peer's loss is its own, inside the graph if it is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from llama_cli.kernels.attention import choose
from llama_cli.model.config import SIZES, ModelConfig
from llama_cli.model.transformer import Transformer, init_weights
from llama_cli.training.loop import Trainer
from llama_cli.training.optimizer import BETAS, CLIP, EPSILON, WEIGHT_DECAY
from llama_cli.training.schedule import learning_rate
from llama_cli.training.settings import Settings

ACTIVATIONS = "linear"  # the command's default, in every comparison
TRANSFORMERS = {
    "tok_embeddings": "model.embed_tokens",
    "attention_norm": "input_layernorm",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "norm": "model.norm",
    "output": "lm_head",
}


class Ours:
    """Our trainer, with the defaults of the command."""

    def __init__(self, size: str, settings: Settings, *, compile: bool = False) -> None:
        dtype = torch.bfloat16 if settings.dtype == "bf16" else torch.float32
        config = SIZES[size]
        attention = choose("cpu", dtype, config.head_dim).name
        with torch.device("meta"):
            model = Transformer(config, attention=attention, activations=ACTIVATIONS)
        self.trainer = Trainer(model, settings, compile=compile)
        self.trainer.begin()

    def step(self, number: int, tokens: Tensor) -> float:
        """Train on sequences (B, L + 1); give the loss before the update."""
        return self.trainer.step(number, tokens).loss

    def evaluate(self, tokens: Tensor) -> float:
        """Give the mean loss of sequences."""
        return self.trainer.evaluate(tokens)


class Peer:
    """The loop that one writes around transformers' model."""

    def __init__(self, size: str, settings: Settings, *, compile: bool = False) -> None:
        self.settings = settings
        self.model = as_transformers(SIZES[size], settings.seed)
        weights = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [w for w in weights if w.dim() > 1], "weight_decay": WEIGHT_DECAY},
                {"params": [w for w in weights if w.dim() == 1], "weight_decay": 0.0},
            ],
            betas=BETAS,
            eps=EPSILON,
            fused=True,
        )
        self.loss: Callable[[Tensor, Tensor], Tensor] = self._loss
        if compile:
            self.loss = torch.compile(self._loss)

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = self.model(
            input_ids=inputs, labels=targets, shift_labels=targets, use_cache=False
        ).loss
        return found

    def _forward(self, loss: Callable[[Tensor, Tensor], Tensor], tokens: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.dtype == "bf16"):
            return loss(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())

    def step(self, number: int, tokens: Tensor) -> float:
        """Train on sequences (B, L + 1); give the loss before the update."""
        s = self.settings
        loss = self._forward(self.loss, tokens)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                number, steps=s.steps, warmup=s.warmup, peak=s.lr, start=s.warmup_from
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    @torch.no_grad()
    def evaluate(self, tokens: Tensor) -> float:
        """Give the mean loss of sequences, one at a time."""
        losses = [self._forward(self._loss, row) for row in tokens.split(1)]
        return torch.stack(losses).mean().item()


def as_transformers(config: ModelConfig, seed: int) -> Any:
    """Give transformers' model with the weights that ours begins with."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.dim,
            intermediate_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_eps,
            rope_theta=config.rope_theta,
            tie_word_embeddings=False,
        )
    )
    ours = Transformer(config)
    init_weights(ours, seed)
    model.load_state_dict(dict(_renamed(ours)))
    return model.train()


def _renamed(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Yield weights by transformers' names; its rotary pairs are i and i + D / 2."""
    for name, weight in model.state_dict().items():
        part = name.removesuffix(".weight")
        head, layer = "", part.split(".")
        if layer[0] == "layers":
            head, part = f"model.layers.{layer[1]}.", ".".join(layer[2:])
        if part.endswith(("wq", "wk")):
            heads = weight.view(model.config.heads, -1, 2, weight.shape[1])
            weight = heads.transpose(1, 2).reshape(weight.shape)
        yield f"{head}{TRANSFORMERS[part]}.weight", weight

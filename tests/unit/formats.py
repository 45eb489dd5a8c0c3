"""Small models in the layouts of others: written by transformers, or split by Meta's rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from llama_cli.model.config import ModelConfig
from llama_cli.model.transformer import Transformer, init_weights
from tests.tiny import tiny_tokenizer

PLAIN = ModelConfig(dim=128, layers=2, heads=16, hidden=256, vocab_size=400, context=64)
LATER: dict[str, dict[str, Any]] = {
    "llama": {},
    "grouped": {"kv_heads": 8},
    "tied": {"tied": True},
    "grouped and tied": {"kv_heads": 2, "tied": True},
}


def tokens(rows: int = 2, length: int = 64) -> Tensor:
    return torch.randint(0, 400, (rows, length), generator=torch.Generator().manual_seed(1))


def spread(weights: Any) -> None:
    """Bring matrices far from the start, so that all of them matter."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in weights:
            noise = torch.randn(weight.shape, generator=draw)
            weight.copy_(0.08 * noise if weight.dim() == 2 else 1 + 0.3 * noise)


def model(config: ModelConfig = PLAIN) -> Transformer:
    found = Transformer(config)
    init_weights(found, 0)
    spread(found.parameters())
    return found


def theirs(**changes: Any) -> LlamaForCausalLM:
    """Make one of transformers' models."""
    told = {
        "vocab_size": 400,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "tie_word_embeddings": False,
    }
    found = LlamaForCausalLM(LlamaConfig(**{**told, **changes}))
    spread(found.parameters())
    return found.eval()


def add_tokenizer(directory: Path) -> Path:
    (directory / "tokenizer.model").write_bytes(tiny_tokenizer().model)
    return directory


def as_meta(
    directory: Path, model: Transformer, files: int, *, rows: bool = False, **params: Any
) -> Path:
    """Split a model by the rule of Meta's code; `rows` splits the embedding as later code does."""
    directory.mkdir(parents=True)
    config = model.config
    for rank in range(files):
        state = {"rope.freqs": torch.ones(config.head_dim // 2)}
        for name, weight in model.state_dict().items():
            if "norm" in name:  # replicated
                state[name] = weight
            elif "wo" in name or "w2" in name or ("tok_embeddings" in name and not rows):
                state[name] = weight.chunk(files, dim=1)[rank].clone()  # row parallel
            else:
                state[name] = weight.chunk(files, dim=0)[rank].clone()  # column parallel
        torch.save(state, directory / f"consolidated.{rank:02d}.pth")
    told = {
        "dim": config.dim,
        "n_layers": config.layers,
        "n_heads": config.heads,
        "multiple_of": 256,
        "ffn_dim_multiplier": 0.75,
        "norm_eps": config.norm_eps,
        "vocab_size": -1,
    }
    if config.kv_heads:
        told["n_kv_heads"] = config.kv_heads
    (directory / "params.json").write_text(json.dumps({**told, **params}))
    return add_tokenizer(directory)


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def same(one: Transformer, other: Transformer) -> bool:
    """Say whether two models have the same bits."""
    mine, others = one.state_dict(), other.state_dict()
    return mine.keys() == others.keys() and all(torch.equal(x, others[k]) for k, x in mine.items())

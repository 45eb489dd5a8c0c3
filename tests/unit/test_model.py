"""The model against the paper's figures, and against another implementation of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from llama_cli.model.config import SIZES, ModelConfig, swiglu_hidden
from llama_cli.model.norm import RMSNorm
from llama_cli.model.rotary import rotary_table, rotate
from llama_cli.model.transformer import Transformer, init_weights

TINY = ModelConfig(dim=128, layers=2, heads=2, hidden=256, vocab_size=300, context=64)


def tiny(seed: int = 0, *, attention: str | None = None) -> Transformer:
    model = Transformer(TINY, attention=attention)
    init_weights(model, seed)
    return model


def tokens(rows: int, length: int) -> Tensor:
    return torch.randint(0, 300, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("size", "billions"),
    [("7b", 6.74), ("13b", 13.02), ("33b", 32.53), ("65b", 65.29)],  # Table 2: 6.7 13.0 32.5 65.2
)
def test_the_papers_sizes_have_the_papers_parameters(size: str, billions: float) -> None:
    assert round(SIZES[size].parameters / 1e9, 2) == billions


@pytest.mark.parametrize(("size", "digits"), [("3m", -6), ("15m", -6), ("110m", -7)])
def test_a_laptop_size_is_named_by_its_parameters_without_embeddings(
    size: str, digits: int
) -> None:
    config = SIZES[size]
    inside = config.parameters - config.embedding_parameters
    assert round(inside, digits) == int(size.removesuffix("m")) * 10**6
    assert config.head_dim == 64


def test_the_papers_heads_are_128_wide() -> None:
    assert {SIZES[size].head_dim for size in ("7b", "13b", "33b", "65b")} == {128}


def test_a_multiple_of_256_is_not_rounded_up() -> None:
    assert swiglu_hidden(384) == 1024
    assert swiglu_hidden(385) == 1280


def test_the_module_holds_as_many_parameters_as_the_config_counts() -> None:
    assert sum(weight.numel() for weight in tiny().parameters()) == TINY.parameters


def test_a_width_that_is_not_whole_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="width 100 is not 3 heads"):
        ModelConfig(dim=100, layers=1, heads=3, hidden=256)


def test_params_are_metas_names_and_read_back() -> None:
    params = TINY.to_params()
    assert (params["dim"], params["n_layers"], params["n_heads"]) == (128, 2, 2)
    assert ModelConfig.from_params(params) == TINY


def test_metas_own_params_file_is_read() -> None:
    meta = {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "vocab_size": -1}
    assert ModelConfig.from_params(meta) == SIZES["7b"]


def test_rms_norm_gives_rows_of_mean_square_one() -> None:
    y = RMSNorm(4, eps=0.0)(torch.tensor([[3.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 2.0]]))
    assert torch.allclose(y.square().mean(-1), torch.ones(2))


def test_position_zero_is_not_turned() -> None:
    x = torch.randn(1, 1, 1, 8)
    assert torch.equal(rotate(x, rotary_table(0, 1, 8, 10_000.0, x.device)), x)


def test_rotated_products_depend_on_the_distance_only() -> None:
    q, k = torch.randn(8), torch.randn(8)
    turned_q, turned_k = (
        rotate(x.expand(1, 1, 40, 8), rotary_table(0, 40, 8, 10_000.0, x.device))[0, 0]
        for x in (q, k)
    )
    assert torch.allclose(turned_q[7] @ turned_k[2], turned_q[37] @ turned_k[32], atol=1e-5)


def test_a_later_token_changes_no_earlier_logits() -> None:
    model, x = tiny(), tokens(1, 12)
    changed = x.clone()
    changed[0, 8] = (x[0, 8] + 1) % 300
    before, after = model(x), model(changed)
    assert torch.equal(before[0, :8], after[0, :8])
    assert not torch.equal(before[0, 8], after[0, 8])


def test_weights_depend_on_the_seed_alone() -> None:
    assert torch.equal(tiny(3).output.weight, tiny(3).output.weight)
    assert not torch.equal(tiny(3).output.weight, tiny(4).output.weight)


def test_a_new_model_is_about_as_unsure_as_a_guess() -> None:
    x = tokens(4, 33)
    loss = torch.nn.functional.cross_entropy(tiny()(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
    assert abs(loss.item() - 5.704) < 0.1  # ln 300


def small(**changes: int | bool) -> Transformer:
    """Make a model of four heads with the changes, far from the start."""
    model = Transformer(replace(TINY, heads=4, **changes))  # type: ignore[arg-type]
    init_weights(model, 0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(0.08 / weight.std())
    return model


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_heads_are_heads_whose_keys_and_values_are_alike(kv_heads: int) -> None:
    grouped, plain, x = small(kv_heads=kv_heads), small(), tokens(2, 12)
    state = grouped.state_dict()
    for name in state:
        if name.endswith(("wk.weight", "wv.weight")):
            heads = state[name].view(kv_heads, 32, 128)
            state[name] = heads.repeat_interleave(4 // kv_heads, 0).flatten(0, 1)
    plain.load_state_dict(state)
    assert torch.allclose(grouped(x), plain(x), atol=1e-5)


def test_a_tied_head_is_the_embedding_and_learns_from_both() -> None:
    tied, plain, x = small(tied=True), small(), tokens(2, 12)
    assert sum(weight.numel() for weight in tied.parameters()) == tied.config.parameters
    plain.load_state_dict(tied.state_dict())
    assert torch.equal(tied(x), plain(x))
    for model in (tied, plain):
        model(x).logsumexp(-1).sum().backward()
    both = (plain.tok_embeddings.weight.grad, plain.output.weight.grad)
    assert both[0] is not None
    assert both[1] is not None
    assert tied.tok_embeddings.weight.grad is not None
    assert torch.allclose(tied.tok_embeddings.weight.grad, both[0] + both[1], rtol=1e-5)


def test_params_of_the_papers_models_say_nothing_of_what_came_later() -> None:
    assert set(TINY.to_params()) == {
        "dim",
        "n_layers",
        "n_heads",
        "hidden",
        "vocab_size",
        "context",
        "norm_eps",
        "rope_theta",
    }
    later = replace(TINY, heads=4, kv_heads=2, tied=True)
    assert later.to_params()["n_kv_heads"] == 2
    assert ModelConfig.from_params(later.to_params()) == later


def test_as_many_key_heads_as_heads_is_the_same_as_none_given() -> None:
    assert replace(TINY, kv_heads=2) == TINY
    assert ModelConfig.from_params({**TINY.to_params(), "n_kv_heads": None}) == TINY


def test_heads_that_make_no_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="4 heads do not share 3 of keys and values"):
        replace(TINY, heads=4, kv_heads=3)


def test_metas_params_of_a_wider_hidden_layer_are_read() -> None:
    # Llama 2 70B's params.json
    meta = {
        "dim": 8192,
        "multiple_of": 4096,
        "ffn_dim_multiplier": 1.3,
        "n_heads": 64,
        "n_kv_heads": 8,
        "n_layers": 80,
        "norm_eps": 1e-05,
        "vocab_size": -1,
    }
    config = ModelConfig.from_params(meta)
    assert (config.hidden, config.key_heads) == (28_672, 8)
    assert round(config.parameters / 1e9, 2) == 68.98  # as published


def half_split(weight: Tensor, heads: int) -> Tensor:
    """Reorder the rows of wq or wk from neighbouring pairs to the (i, i + d/2) of transformers."""
    out, dim = weight.shape
    return weight.view(heads, out // heads // 2, 2, dim).transpose(1, 2).reshape(out, dim)


def as_transformers(model: Transformer) -> LlamaForCausalLM:
    c = model.config
    other = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=c.vocab_size,
            hidden_size=c.dim,
            intermediate_size=c.hidden,
            num_hidden_layers=c.layers,
            num_attention_heads=c.heads,
            num_key_value_heads=c.heads,
            max_position_embeddings=c.context,
            rms_norm_eps=c.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
            tie_word_embeddings=False,
        )
    )
    ours = dict(model.named_parameters())
    state = {
        "model.embed_tokens.weight": ours["tok_embeddings.weight"],
        "model.norm.weight": ours["norm.weight"],
        "lm_head.weight": ours["output.weight"],
    }
    for n in range(c.layers):
        to, layer = f"model.layers.{n}.", f"layers.{n}."
        for theirs, mine in (("q", "wq"), ("k", "wk"), ("v", "wv"), ("o", "wo")):
            weight = ours[f"{layer}attention.{mine}.weight"]
            turned = half_split(weight, c.heads) if theirs in "qk" else weight
            state[f"{to}self_attn.{theirs}_proj.weight"] = turned
        for theirs, mine in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
            state[f"{to}mlp.{theirs}_proj.weight"] = ours[f"{layer}feed_forward.{mine}.weight"]
        state[f"{to}input_layernorm.weight"] = ours[f"{layer}attention_norm.weight"]
        state[f"{to}post_attention_layernorm.weight"] = ours[f"{layer}ffn_norm.weight"]
    other.load_state_dict(state)
    return other


@pytest.mark.parametrize("attention", ["sdpa", "reference"])
def test_logits_are_those_of_transformers(attention: str) -> None:
    model, x = tiny(attention=attention), tokens(2, 64)
    with torch.no_grad():
        for weight in model.parameters():  # far from the start, so that all of it matters
            if weight.dim() == 2:
                weight.mul_(0.08 / weight.std())
        ours, theirs = model(x), as_transformers(model)(x).logits
    assert theirs.std() > 0.5
    assert (ours - theirs).abs().max() < 1e-5


def test_the_gradient_is_that_of_transformers() -> None:
    model, x = tiny(), tokens(2, 32)
    other = as_transformers(model)
    for logits in (model(x), other(x).logits):
        logits.float().logsumexp(-1).sum().backward()
    ours, theirs = model.tok_embeddings.weight.grad, other.model.embed_tokens.weight.grad
    assert ours is not None
    assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-5

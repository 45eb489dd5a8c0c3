"""Models as Meta and Hugging Face keep them: in and out, bit for bit, with the same logits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from llama_cli.model.config import ModelConfig
from llama_cli.model.dtypes import DTYPES, DType, as_array, converted, torch_dtype, widened
from llama_cli.model.formats import KINDS, Kind, hugging_face, kind_of, meta, open_source, write
from llama_cli.model.formats.loading import load, pour
from llama_cli.model.stored import Slice, save_tensors
from llama_cli.model.transformer import Transformer
from llama_cli.model.weights import find_checkpoint, load_model, save_weights
from tests.unit.formats import (
    LATER,
    PLAIN,
    add_tokenizer,
    as_meta,
    edit,
    model,
    same,
    theirs,
    tokens,
)

THEIR_NAMES = {"kv_heads": "num_key_value_heads", "tied": "tie_word_embeddings"}


def ours(path: Path, config: ModelConfig = PLAIN) -> Path:
    path.mkdir()
    save_weights(model(config), path)
    return path


def exported(kind: Kind, source: Path, to: Path, **options: Any) -> Path:
    to.mkdir()
    write(kind, open_source(source), to, **options)
    return to


def their_logits(path: Path) -> torch.Tensor:
    with torch.no_grad():
        found = LlamaForCausalLM.from_pretrained(path)(tokens()).logits
    assert isinstance(found, torch.Tensor)
    return found


def lies_in_file(array: np.ndarray) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(address, 16) for address in line.split()[0].split("-"))
        if start <= array.ctypes.data < end:
            return line.endswith((".safetensors", ".pth"))
    raise AssertionError("an array in no memory")


# -- Hugging Face --


@pytest.mark.parametrize("limit", ["5GB", "100KB"])
@pytest.mark.parametrize("later", LATER)
def test_logits_are_those_of_transformers_for_the_same_directory(
    tmp_path: Path, later: str, limit: str
) -> None:
    other = theirs(**{THEIR_NAMES[name]: value for name, value in LATER[later].items()})
    other.save_pretrained(tmp_path, max_shard_size=limit)
    assert ((tmp_path / "model.safetensors.index.json").exists()) == (limit == "100KB")
    found = load_model(tmp_path)
    assert found.config == replace(PLAIN, **LATER[later])
    with torch.no_grad():
        mine, right = found(tokens()), other(tokens()).logits
    assert right.std() > 0.5
    assert (mine - right).abs().max() < 1e-4


def test_logits_in_a_long_context_are_those_of_transformers(tmp_path: Path) -> None:
    other = theirs(max_position_embeddings=2048)
    other.save_pretrained(tmp_path)
    with torch.no_grad():
        x = tokens(1, 2048)
        assert (load_model(tmp_path)(x) - other(x).logits).abs().max() < 1e-4


@pytest.mark.parametrize("theta", [{"rope_theta": 5e5}, {"rope_parameters": {"rope_theta": 5e5}}])
def test_the_base_of_the_angles_is_read_from_old_configs_and_new(
    tmp_path: Path, theta: dict[str, Any]
) -> None:
    other = theirs(rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    other.save_pretrained(tmp_path)
    edit(tmp_path / "config.json", **{"rope_parameters": None, "rope_scaling": None, **theta})
    with torch.no_grad():
        assert (load_model(tmp_path)(tokens()) - other(tokens()).logits).abs().max() < 1e-4


@pytest.mark.parametrize("limit", [hugging_face.LIMIT, 100_000])
@pytest.mark.parametrize("later", LATER)
def test_what_is_exported_has_the_same_logits_in_transformers(
    tmp_path: Path, later: str, limit: int
) -> None:
    config = replace(PLAIN, **LATER[later])
    (tmp_path / "hf").mkdir()
    hugging_face.write(open_source(ours(tmp_path / "c", config)), tmp_path / "hf", limit=limit)
    parts = sorted((tmp_path / "hf").glob("*.safetensors"))
    assert len(parts) == 1 or all(path.stat().st_size < 300_000 for path in parts)
    with torch.no_grad():
        mine = model(config)(tokens())
    assert (mine - their_logits(tmp_path / "hf")).abs().max() < 1e-5


def test_a_model_of_transformers_that_goes_through_ours_comes_back_bit_for_bit(
    tmp_path: Path,
) -> None:
    theirs(num_key_value_heads=4).save_pretrained(tmp_path / "a")
    exported("llama", tmp_path / "a", tmp_path / "b")
    exported("hf", tmp_path / "b", tmp_path / "c")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in "ac")
    assert before.keys() == after.keys()
    assert all(torch.equal(x, after[name]) for name, x in before.items())
    assert torch.equal(their_logits(tmp_path / "a"), their_logits(tmp_path / "c"))


def test_a_head_that_a_tied_model_keeps_as_well_is_passed_over(tmp_path: Path) -> None:
    other = theirs(tie_word_embeddings=True)
    other.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    path.unlink()  # it is mapped into memory
    save_tensors(state, path)
    with torch.no_grad():
        assert (load_model(tmp_path)(tokens()) - other(tokens()).logits).abs().max() < 1e-4


# -- Meta --


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("files", [1, 2, 4, 8])
@pytest.mark.parametrize("later", ["llama", "grouped"])
def test_metas_files_are_one_model_however_many_they_are(
    tmp_path: Path, later: str, files: int, rows: bool
) -> None:
    whole = model(replace(PLAIN, **LATER[later]))
    found = load_model(as_meta(tmp_path / "m", whole, files, rows=rows))
    assert same(found, whole)
    assert found.config == replace(whole.config, context=4096)


@pytest.mark.parametrize("shards", [1, 2, 4, 8])
def test_what_is_exported_for_meta_is_split_by_its_rule(tmp_path: Path, shards: int) -> None:
    source = ours(tmp_path / "c", replace(PLAIN, kv_heads=8))
    right = as_meta(tmp_path / "m", load_model(source), shards)
    found = exported("meta", source, tmp_path / "x", shards=shards)
    names = sorted(path.name for path in found.glob("consolidated.*"))
    assert len(names) == shards
    for name in names:
        one, other = (torch.load(each / name, weights_only=True) for each in (found, right))
        assert one.keys() == other.keys() - {"rope.freqs"}
        assert all(torch.equal(x, other[k]) for k, x in one.items())


@pytest.mark.parametrize(
    ("params", "context"),
    [
        ({"norm_eps": 1e-6}, 2048),
        ({"norm_eps": 1e-5}, 4096),
        ({"rope_theta": 1e6}, 16_384),
        ({"rope_theta": 5e5}, 8192),
        ({"context": 77}, 77),
    ],
)
def test_the_context_of_a_release_follows_from_which_one_it_is(
    tmp_path: Path, params: dict[str, Any], context: int
) -> None:
    found = open_source(as_meta(tmp_path / "m", model(), 2, **params))
    assert found.config.context == context


def test_metas_code_is_given_no_key_that_it_does_not_know() -> None:
    known = {"dim", "n_layers", "n_heads", "vocab_size", "multiple_of", "norm_eps"}
    llama2 = {*known, "n_kv_heads", "ffn_dim_multiplier"}
    assert meta.to_params(replace(PLAIN, hidden=512)).keys() == known
    told = meta.to_params(replace(PLAIN, hidden=300, kv_heads=4))
    assert told.keys() == llama2
    assert ModelConfig.from_params(told).hidden == 300


@pytest.mark.parametrize("hidden", [1, 64, 255, 341, 342, 1000, 11_008, 12_345])
def test_any_hidden_width_can_be_said_in_metas_way(hidden: int) -> None:
    config = replace(PLAIN, hidden=hidden)
    assert ModelConfig.from_params(meta.to_params(config)).hidden == hidden


def test_the_tokenizer_may_lie_beside_the_model_or_above_it(tmp_path: Path) -> None:
    path = as_meta(tmp_path / "up" / "7B", model(), 1)
    assert open_source(path).tokenizer == path / "tokenizer.model"
    (path / "tokenizer.model").rename(tmp_path / "up" / "tokenizer.model")
    assert open_source(path).tokenizer == tmp_path / "up" / "tokenizer.model"


# -- all of them --


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("later", LATER)
def test_what_is_exported_comes_back_bit_for_bit(
    tmp_path: Path, kind: Kind, later: str, dtype: torch.dtype
) -> None:
    config = replace(PLAIN, **LATER[later])
    (tmp_path / "c").mkdir()
    save_weights(model(config).to(dtype), tmp_path / "c")
    found = load_model(exported(kind, tmp_path / "c", tmp_path / "x"))
    assert kind_of(tmp_path / "x") == kind
    assert same(found, model(config).to(dtype))
    untied = replace(config, tied=False)  # Meta has no tied heads
    assert found.config == (untied if kind == "meta" else config)


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_of_each_kind_is_a_checkpoint(tmp_path: Path, kind: Kind) -> None:
    path = exported(kind, ours(tmp_path / "c"), tmp_path / "x")
    assert find_checkpoint(path) == path


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("kind", KINDS)
def test_matrices_can_be_laid_out_by_columns_and_in_another_dtype(
    tmp_path: Path, kind: Kind, later: str
) -> None:
    config = replace(PLAIN, **LATER[later])
    source = open_source(exported(kind, ours(tmp_path / "c", config), tmp_path / "x"))
    found = load(source, columns=True)
    assert same(found, model(config))
    assert found.layers[0].attention.wq.weight.stride() == (1, 128)
    assert found.output.weight.stride() == (1, 400)
    assert (found.output.weight is found.tok_embeddings.weight) == source.config.tied
    half = load(source, dtype=torch.bfloat16)
    assert same(half, model(config).to(torch.bfloat16))


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_whole_in_a_file_is_used_where_it_lies(
    tmp_path: Path, kind: Kind, later: str
) -> None:
    config = replace(PLAIN, **LATER[later])
    source = open_source(exported(kind, ours(tmp_path / "c", config), tmp_path / "x"))
    for name, weight in model(config).named_parameters():
        assert np.array_equal(source.array(name), weight.detach())
    assert lies_in_file(source.array("layers.1.attention.wo.weight"))
    turned = kind == "hf"  # whose rows are in another order
    assert lies_in_file(source.array("layers.1.attention.wq.weight")) != turned


@pytest.mark.parametrize("kept", DTYPES)
@pytest.mark.parametrize("wanted", [name for name in DTYPES if name != "F64"])
def test_arrays_are_rounded_as_pytorch_rounds(kept: DType, wanted: DType) -> None:
    numbers = torch.randn(40, 50, generator=torch.Generator().manual_seed(0)).double() * 1e3
    odd = [0.0, -0.0, 1e-45, 65519.9, 65520, 3.4e38, torch.inf, -torch.inf, torch.nan, 1 + 2**-8]
    numbers[0, : len(odd)] = torch.tensor(odd, dtype=torch.float64)
    tensor = numbers.to(torch_dtype(kept))
    right = tensor.float().to(torch_dtype(wanted))
    found = converted(as_array(tensor), wanted)
    assert np.array_equal(widened(found), right.float(), equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_any_rectangle_of_a_tensor_can_be_asked_for(tmp_path: Path, kind: Kind) -> None:
    source = open_source(exported(kind, ours(tmp_path / "c"), tmp_path / "x"))
    right = model().state_dict()
    for name in ("layers.1.attention.wk.weight", "layers.0.attention.wo.weight"):
        part = Slice(
            name, (128, 128), (3, 7), torch.empty(18, 50)
        )  # neither begins nor ends a head
        pour(source, [part])
        assert torch.equal(part.tensor, right[name][3:21, 7:57])


def test_numbers_are_copied_a_block_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama_cli.model.stored.BLOCK", 1000)
    for kind in KINDS:
        path = exported(kind, ours(tmp_path / f"c{kind}"), tmp_path / kind)
        assert same(load_model(path), model())


def test_a_config_of_an_export_says_what_transformers_would(tmp_path: Path) -> None:
    path = exported("hf", ours(tmp_path / "c", replace(PLAIN, kv_heads=4)), tmp_path / "x")
    told = json.loads((path / "config.json").read_text())
    other = theirs(num_key_value_heads=4).config.to_dict()
    differ = {"architectures", "torch_dtype", "rope_theta"}  # of a saved model, and of older ones
    assert {k: v for k, v in told.items() if k not in differ} == {
        k: other[k] for k in told.keys() - differ
    }


def test_a_checkpoint_beside_a_tokenizer_of_ours_stays_ours(tmp_path: Path) -> None:
    assert kind_of(add_tokenizer(ours(tmp_path / "c"))) == "llama"
    assert kind_of(tmp_path) is None
    assert isinstance(load_model(tmp_path / "c"), Transformer)

"""Weights to disk and back, and which checkpoint of a run is used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llama_cli.errors import NotReadyError
from llama_cli.model.stored import Slice, save_slices
from llama_cli.model.weights import (
    MODEL,
    find_checkpoint,
    is_whole,
    load_model,
    save_config,
    save_weights,
)
from tests.unit.test_model import TINY, tiny, tokens


def saved(path: Path) -> Path:
    path.mkdir(parents=True)
    save_weights(tiny(), path)
    return path


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_a_model_read_back_gives_the_same_bits(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path / "c"))
    assert model.config == TINY
    assert torch.equal(model(tokens(1, 8)), tiny()(tokens(1, 8)))


def test_a_model_can_be_read_in_another_dtype(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path / "c"), dtype=torch.bfloat16)
    assert model(tokens(1, 8)).dtype == torch.bfloat16


def test_names_on_disk_are_metas(tmp_path: Path) -> None:
    names = set(load_file(saved(tmp_path / "c") / "model.safetensors"))
    assert {"tok_embeddings.weight", "layers.1.attention.wq.weight", "output.weight"} <= names
    assert {"layers.0.feed_forward.w2.weight", "layers.0.ffn_norm.weight", "norm.weight"} <= names


def test_a_directory_without_a_model_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="no model at") as caught:
        load_model(tmp_path)
    assert caught.value.hint is not None
    assert "llama train" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "no dim$"),
        ('{"dim": 64}', "no n_layers$"),
        ("[]", "not a model's parameters: "),
        ('{"dim": "wide"}', "not a model's parameters: "),
    ],
)
def test_params_that_are_not_a_models_are_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "params.json").write_text(text)
    with pytest.raises(NotReadyError, match=rf"params\.json: {words}"):
        load_model(tmp_path)


def test_missing_weights_are_one_line(tmp_path: Path) -> None:
    (saved(tmp_path / "c") / "model.safetensors").unlink()
    with pytest.raises(NotReadyError, match="no weights at"):
        load_model(tmp_path / "c")


def test_weights_of_another_shape_are_one_line(tmp_path: Path) -> None:
    params = json.loads((saved(tmp_path / "c") / "params.json").read_text())
    (tmp_path / "c" / "params.json").write_text(json.dumps({**params, "n_layers": 3}))
    with pytest.raises(NotReadyError) as caught:
        load_model(tmp_path / "c")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_is_itself(tmp_path: Path) -> None:
    assert find_checkpoint(saved(tmp_path / "c")) == tmp_path / "c"


def test_the_newest_checkpoint_of_a_run_is_used(tmp_path: Path) -> None:
    for name in ("checkpoint-0000009", "checkpoint-0000010", "checkpoint-10000000"):
        saved(tmp_path / name)
    assert find_checkpoint(tmp_path).name == "checkpoint-10000000"


def test_a_checkpoint_one_byte_short_is_passed_over(tmp_path: Path) -> None:
    saved(tmp_path / "checkpoint-0000001")
    cut_short(saved(tmp_path / "checkpoint-0000002") / "model.safetensors")
    assert find_checkpoint(tmp_path).name == "checkpoint-0000001"


def test_a_checkpoint_without_weights_is_not_whole(tmp_path: Path) -> None:
    (saved(tmp_path / "c") / "model.safetensors").unlink()
    assert not is_whole(tmp_path / "c")


@pytest.mark.parametrize("run", ["empty", "absent"])
def test_a_run_without_checkpoints_is_said(tmp_path: Path, run: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotReadyError, match="no checkpoint in"):
        find_checkpoint(tmp_path / run)


def in_parts(path: Path) -> Path:
    """Write the tiny model as two ranks would, each half of the rows of every weight."""
    path.mkdir()
    model = tiny()
    for number in range(2):
        halves = []
        for name, weight in model.named_parameters():
            rows = -(-len(weight) // 2)
            half = weight.detach()[number * rows : (number + 1) * rows]
            offset = (number * rows, *(0,) * (weight.dim() - 1))
            halves.append(Slice(name, tuple(weight.shape), offset, half))
        save_slices(halves, path, MODEL, number + 1, 2)
    save_config(model.config, path)
    return path


def test_a_model_in_parts_is_the_same_model(tmp_path: Path) -> None:
    found = load_model(in_parts(tmp_path / "c"))
    expected = dict(tiny().named_parameters())
    assert all(torch.equal(weight, expected[name]) for name, weight in found.named_parameters())
    assert is_whole(tmp_path / "c")
    assert load_model(tmp_path / "c", dtype=torch.bfloat16).output.weight.dtype == torch.bfloat16


def test_a_model_without_one_of_its_parts_is_named(tmp_path: Path) -> None:
    (in_parts(tmp_path / "c") / "model-00002-of-00002.safetensors").unlink()
    assert not is_whole(tmp_path / "c")
    with pytest.raises(NotReadyError, match=r"no weights at .*model-00002-of-00002"):
        load_model(tmp_path / "c")


def test_a_part_cut_short_is_named(tmp_path: Path) -> None:
    cut_short(in_parts(tmp_path / "c") / "model-00002-of-00002.safetensors")
    assert not is_whole(tmp_path / "c")
    with pytest.raises(NotReadyError, match="safetensors"):
        load_model(tmp_path / "c")

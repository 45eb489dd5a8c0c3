"""What is missing, damaged, dangerous or not LLaMA in a model of others: each is one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama_cli.errors import LlamaError, NotReadyError, UsageError
from llama_cli.model.formats import open_source, write
from llama_cli.model.weights import load_model, save_weights
from llama_cli.stream.directory import new_directory
from tests.unit.formats import PLAIN, as_meta, edit, model, theirs


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of models, which no test changes."""
    path = tmp_path_factory.mktemp("models")
    theirs().save_pretrained(path / "hf")
    theirs().save_pretrained(path / "shards", max_shard_size="300KB")
    as_meta(path / "meta", model(), 4)
    (path / "llama").mkdir()
    save_weights(model(), path / "llama")
    return path


@pytest.fixture
def models(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    return shutil.copytree(made, tmp_path / "models")


def refusal(path: Path) -> LlamaError:
    with pytest.raises(NotReadyError) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 1
    return caught.value


def cut(path: Path, size: int = -1) -> None:
    path.write_bytes(path.read_bytes()[:size])


# -- missing --


def test_a_missing_shard_of_an_index_is_named(models: Path) -> None:
    first = min((models / "shards").glob("model-00002-*"))
    first.unlink()
    assert str(refusal(models / "shards")) == (
        f"{first} is missing, which model.safetensors.index.json names"
    )


@pytest.mark.parametrize("number", [0, 2, 3])
def test_a_missing_file_of_a_release_is_named_also_the_last(models: Path, number: int) -> None:
    path = models / "meta" / f"consolidated.0{number}.pth"
    path.unlink()
    assert str(refusal(models / "meta")) == f"{path} is missing"


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("llama", "model.safetensors", "no weights at"),
        ("hf", "model.safetensors", "no weights at"),
        ("meta", "params.json", "no parameters at"),
    ],
)
def test_a_directory_without_one_of_its_files_says_which(
    models: Path, kind: str, name: str, message: str
) -> None:
    (models / kind / name).unlink()
    assert str(refusal(models / kind)) == f"{message} {models / kind / name}"


def test_weights_that_are_pickles_only_are_refused_with_the_way_out(models: Path) -> None:
    (models / "hf" / "model.safetensors").rename(models / "hf" / "pytorch_model.bin")
    found = refusal(models / "hf")
    assert "pytorch_model.bin: a pickle, and only model.safetensors is read" in str(found)
    assert "save_pretrained" in str(found.hint)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("hf", "model.layers.0.input_layernorm.weight"), ("llama", "layers.1.ffn_norm.weight")],
)
def test_a_tensor_that_is_not_there_is_named(models: Path, kind: str, name: str) -> None:
    path = models / kind / "model.safetensors"
    state = load_file(path)
    del state[name]
    path.unlink()
    save_file(state, path)
    assert f"{name} is missing, of (128,) by" in str(refusal(models / kind))


# -- damaged --


@pytest.mark.parametrize("size", [0, 7, 500, -1])
@pytest.mark.parametrize("kind", ["hf", "llama"])
def test_a_safetensors_file_cut_short_is_named(models: Path, kind: str, size: int) -> None:
    cut(models / kind / "model.safetensors", size)
    assert str(refusal(models / kind)).startswith(f"{models / kind / 'model.safetensors'}: ")


@pytest.mark.parametrize("size", [0, 1000, -1])
def test_a_file_of_a_release_cut_short_is_named(models: Path, size: int) -> None:
    path = models / "meta" / "consolidated.01.pth"
    cut(path, size)
    assert str(refusal(models / "meta")) == f"{path}: cut short, or no file of torch's"


@pytest.mark.parametrize("file", ["llama/params.json", "meta/params.json"])
def test_a_number_that_params_lack_is_named(models: Path, file: str) -> None:
    path = models / file
    path.write_text("{}")
    assert str(refusal(path.parent)) == f"{path}: no dim"


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"model_type": "llama"}'])
@pytest.mark.parametrize("file", ["hf/config.json", "meta/params.json", "llama/params.json"])
def test_a_config_that_is_none_is_named(models: Path, file: str, text: str) -> None:
    (models / file).write_text(text)
    assert str(refusal((models / file).parent)).startswith(f"{models / file}: ")


@pytest.mark.parametrize(
    "text", ["{", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../hf/model.safetensors"}}']
)
def test_an_index_that_is_none_is_named(models: Path, text: str) -> None:
    path = models / "shards" / "model.safetensors.index.json"
    path.write_text(text)
    assert str(refusal(models / "shards")) == f"{path}: not an index of weights"


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "hf/config.json",
            {"intermediate_size": 255},
            "mlp.gate_proj.weight is (256, 128), not the (255, 128)",
        ),
        (
            "hf/config.json",
            {"num_key_value_heads": 8},
            "self_attn.k_proj.weight is (128, 128), not the (64, 128)",
        ),
        ("hf/config.json", {"num_hidden_layers": 1}, "model.layers.1."),
        ("hf/config.json", {"num_hidden_layers": 3}, "is missing, of"),
        ("hf/config.json", {"vocab_size": 401}, "is (400, 128), not the (401, 128)"),
        ("shards/config.json", {"vocab_size": 401}, "is (400, 128), not the (401, 128)"),
        ("meta/params.json", {"ffn_dim_multiplier": 1.5}, "w1.weight is (256, 128), not the (512"),
        ("meta/params.json", {"vocab_size": 399}, "is (400, 128), not the (399, 128)"),
        ("meta/params.json", {"n_layers": 1}, "is in no model of params.json"),
        ("llama/params.json", {"hidden": 255}, "w1.weight is (256, 128), not the (255, 128)"),
        ("llama/params.json", {"n_heads": 7}, "width 128 is not 7 heads"),
        ("hf/config.json", {"num_attention_heads": 0}, "head_dim is 8, not 128 over 0 heads"),
        ("hf/config.json", {"intermediate_size": -1}, "config: hidden is -1"),
        ("hf/config.json", {"vocab_size": 1e30}, "config: vocab_size is 1000000000"),
        ("hf/config.json", {"max_position_embeddings": 0}, "config: context is 0"),
        ("hf/config.json", {"rms_norm_eps": float("nan")}, "config: norm_eps is nan"),
        ("llama/params.json", {"rope_theta": -1}, "rope_theta -1.0"),
        ("llama/params.json", {"hidden": float("inf")}, "parameters: cannot convert"),
        ("meta/params.json", {"n_layers": 0}, "parameters: layers is 0"),
        ("llama/params.json", {"n_layers": 10**9}, "layers is 1000000000, not 1 to 10,000"),
        ("hf/config.json", {"num_hidden_layers": 10**9}, "layers is 1000000000, not 1 to 10,000"),
    ],
)
def test_a_shape_that_disagrees_with_the_config_is_named(
    models: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    edit(models / file, **changes)
    found = str(refusal((models / file).parent))
    assert found.startswith(str((models / file).parent))
    assert message in found


def test_files_of_two_releases_are_not_taken_for_one(models: Path) -> None:
    as_meta(models / "other", model(), 2)
    shutil.copy(models / "other" / "consolidated.01.pth", models / "meta" / "consolidated.03.pth")
    assert "consolidated." in str(refusal(models / "meta"))


@pytest.mark.parametrize("shape", [(), (0,), (3,), (3, 3, 3)])
@pytest.mark.parametrize("name", ["layers.0.attention.wq.weight", "tok_embeddings.weight"])
def test_a_tensor_of_a_release_with_another_number_of_sides_is_named(
    models: Path, name: str, shape: tuple[int, ...]
) -> None:
    for number in (0, 1):
        path = models / "meta" / f"consolidated.0{number}.pth"
        held = torch.load(path, weights_only=True)
        held[name] = torch.zeros(shape)
        torch.save(held, path)
    edit(models / "meta" / "params.json", vocab_size=400)
    assert f"{name} is (" in str(refusal(models / "meta"))


@pytest.mark.parametrize("kind", ["hf", "llama"])
def test_a_directory_in_the_place_of_the_weights_is_no_file(models: Path, kind: str) -> None:
    path = models / kind / "model.safetensors"
    path.unlink()
    path.mkdir()
    assert str(refusal(models / kind)) == f"no weights at {path}"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["directory", "pipe"])
def test_what_is_no_file_of_a_release_is_not_waited_for(
    models: Path, make: Callable[[Path], None]
) -> None:
    path = models / "meta" / "consolidated.03.pth"
    path.unlink()
    make(path)
    assert str(refusal(models / "meta")) == f"{path} is missing"


# -- dangerous --


class Evil:
    """What a pickle may do: whatever it likes."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("how", ["beside tensors", "alone", "as a plain pickle", "old torch"])
def test_code_in_a_pickle_does_not_run(models: Path, tmp_path: Path, how: str) -> None:
    mark, path = tmp_path / "it-ran", models / "meta" / "consolidated.00.pth"
    evil = Evil(mark)
    if how == "as a plain pickle":
        path.write_bytes(pickle.dumps({"norm.weight": evil}))
    elif how == "old torch":
        torch.save({"norm.weight": evil}, path, _use_new_zipfile_serialization=False)
    else:
        held = torch.load(path, weights_only=True) if how == "beside tensors" else {}
        torch.save({**held, "norm.weight": evil}, path)
    found = str(refusal(models / "meta"))
    assert not mark.exists()
    if how in {"beside tensors", "alone"}:
        assert found == f"{path}: holds code (posix.system), and was not opened"


@pytest.mark.parametrize(
    "held",
    [
        [torch.ones(1)],
        {"norm.weight": 3},
        torch.ones(1),
        {3: torch.ones(1)},
        {"norm.weight": torch.ones(1, 1).to_sparse()},
    ],
)
def test_a_pickle_of_something_else_than_named_tensors_is_refused(models: Path, held: Any) -> None:
    path = models / "meta" / "consolidated.00.pth"
    torch.save(held, path)
    assert str(refusal(models / "meta")) == f"{path}: holds something else than tensors"


# -- not LLaMA --


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mistral"}, "model_type is mistral"),
        ({"model_type": None}, "no model_type"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is set"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is of type linear"),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}},
            "rope_parameters is of type llama3",
        ),
        ({"head_dim": 16}, "head_dim is 16, not 128 over 16 heads"),
    ],
)
def test_a_config_beyond_llama_is_refused_by_its_field(
    models: Path, changes: dict[str, Any], message: str
) -> None:
    edit(models / "hf" / "config.json", **changes)
    found = str(refusal(models / "hf"))
    assert found.startswith(f"{models / 'hf' / 'config.json'}: ")
    assert message in found


@pytest.mark.parametrize("field", ["use_scaled_rope", "quantization_args"])
def test_params_beyond_llama_are_refused_by_their_field(models: Path, field: str) -> None:
    edit(models / "meta" / "params.json", **{field: True})
    assert f"params.json: {field} is set" in str(refusal(models / "meta"))


def test_quantised_weights_are_refused(models: Path) -> None:
    path = models / "hf" / "model.safetensors"
    state = load_file(path)
    state["model.norm.weight"] = state["model.norm.weight"].to(torch.int8)
    path.unlink()
    save_file(state, path)
    assert "norm.weight is not in fp32, bf16 or fp16" in str(refusal(models / "hf"))


def test_biases_are_refused_though_the_config_has_none(models: Path) -> None:
    path = models / "hf" / "model.safetensors"
    state = load_file(path)
    state["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(128)
    path.unlink()
    save_file(state, path)
    assert "q_proj.bias is in no model of config.json" in str(refusal(models / "hf"))


# -- writing --


def test_a_model_that_does_not_divide_is_not_split(models: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the 16 heads do not divide by 3 files") as caught:
        write("meta", open_source(models / "llama"), tmp_path, shards=3)
    assert caught.value.hint


def test_a_directory_appears_when_whole_or_not_at_all(tmp_path: Path) -> None:
    with new_directory(tmp_path / "out") as part:
        (part / "a").write_text("a")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "a").read_text() == "a"
    with pytest.raises(ZeroDivisionError), new_directory(tmp_path / "other") as part:
        (part / "a").write_text(str(1 / 0))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_directory_is_filled_and_any_other_stays(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with new_directory(tmp_path / "out") as part:
        (part / "a").write_text("a")
    (tmp_path / "file").write_text("mine")
    for name in ("out", "file"):
        with (
            pytest.raises(LlamaError, match=f"{name} is there already, and stays as it is"),
            new_directory(tmp_path / name),
        ):
            pass
    assert (tmp_path / "out" / "a").read_text() == "a"


def test_plain_models_are_read_by_all_this(made: Path) -> None:
    for kind in ("hf", "shards", "meta", "llama"):
        assert load_model(made / kind).config.layers == PLAIN.layers
    assert json.loads((made / "meta" / "params.json").read_text())["vocab_size"] == -1

"""Parts of tensors in files: where they may lie, and what their numbers are in."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import as_strided
from safetensors.torch import load_file, save_file

from llama_cli.errors import NotReadyError
from llama_cli.inference.host import HostNetwork
from llama_cli.model.config import NORM, ModelConfig
from llama_cli.model.dtypes import DTYPES, converted, torch_dtype, widened
from llama_cli.model.formats import open_source
from llama_cli.model.formats.ours import save_config
from llama_cli.model.parts import Rectangle, let_go, overlap
from tests.unit.formats import as_meta, model, theirs

CONFIG = ModelConfig(dim=16, layers=1, heads=2, hidden=256, vocab_size=40, context=8)
NAME = "layers.0.attention.wo.weight"  # (16, 16), of which each of two has (8, 16)
TWO = (torch.float32, torch.float32)


def in_two(directory: Path, dtypes: tuple[torch.dtype, ...] = TWO, **place: Any) -> Path:
    """Write a model as two ranks would, the upper half of each tensor in the first file.

    `place` is said of the second part of NAME; `told` of all places.
    """
    directory.mkdir()
    save_config(CONFIG, directory)
    for number, dtype in enumerate(dtypes):
        parts, places = {}, {}
        for name, whole in model(CONFIG).state_dict().items():
            parts[name] = whole.chunk(2)[number].to(dtype)
            first = number * len(parts[name])
            places[name] = [[first] + [0] * (whole.dim() - 1), list(whole.shape)]
        if number and "at" in place:
            places[NAME] = [place["at"], place.get("of", [16, 16])]
        metadata = {"places": place.get("told", json.dumps(places))}
        save_file(parts, directory / f"model-{number + 1:05d}-of-00002.safetensors", metadata)
    return directory


def as_tensor(array: np.ndarray) -> torch.Tensor:
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def refusal(directory: Path) -> str:
    with pytest.raises(NotReadyError) as caught:
        open_source(directory)
    return str(caught.value)


# -- numbers --


@pytest.mark.parametrize("second", DTYPES)
@pytest.mark.parametrize("first", DTYPES)
def test_parts_in_two_dtypes_are_the_numbers_that_they_are(
    tmp_path: Path, first: Any, second: Any
) -> None:
    kept = torch_dtype(first), torch_dtype(second)
    found = open_source(in_two(tmp_path / "two", kept)).array(NAME)
    halves = zip(model(CONFIG).state_dict()[NAME].chunk(2), kept, strict=True)
    wanted = torch.cat([half.to(dtype).double() for half, dtype in halves])
    assert (as_tensor(found).double() == wanted).all()


def test_a_files_parameters_and_views_are_their_numbers(tmp_path: Path) -> None:
    path = as_meta(tmp_path / "meta", model(CONFIG), 1)
    file = path / "consolidated.00.pth"
    state = torch.load(file)
    plain = state[NAME]
    changed = torch.nn.Parameter(plain), torch._neg_view(plain), plain.t().contiguous().t()
    for tensor, wanted in zip(changed, (plain, -plain, plain), strict=True):
        torch.save({**state, NAME: tensor}, file)
        assert (open_source(path).array(NAME) == wanted.numpy()).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "array",
    [
        np.full((2, 4), 0x7D00, np.uint16).view(np.float16),  # no number, and one that signals
        np.full((2, 4), 0x7F81, np.uint16),  # the same in bfloat16
        np.full((2, 4), 0x7FF0000000000001, np.uint64).view(np.float64),
        np.full((2, 4), 1e300),
    ],
    ids=["fp16", "bf16", "fp64", "large"],
)
def test_what_is_no_number_or_too_large_is_converted_without_a_warning(array: np.ndarray) -> None:
    assert not np.isfinite(widened(array)).any()
    for dtype in DTYPES:
        assert not np.isfinite(widened(converted(array, dtype))).any()


# -- places --


@pytest.mark.parametrize(
    "told", ["{", "[" * 10_000, "[1]", "null", "3", f'{{"{NAME}": "ab"}}', f'{{"{NAME}": 1}}']
)
def test_places_that_cannot_be_read_are_damage_to_the_file(tmp_path: Path, told: str) -> None:
    said = refusal(in_two(tmp_path / "two", told=told))
    assert said.endswith("model-00001-of-00002.safetensors: the places of its parts cannot be read")


@pytest.mark.parametrize("at", [[9, 0], [-8, 0], [8, 1], [1 << 70, 0]])
def test_a_part_outside_of_its_tensor_is_damage_to_the_file(tmp_path: Path, at: list[int]) -> None:
    said = refusal(in_two(tmp_path / "two", at=at))
    assert "model-00002-of-00002.safetensors: " in said
    assert f"{NAME} is (8, 16), which does not lie at {tuple(at)} of (16, 16)" in said


@pytest.mark.parametrize(("at", "of"), [([8], [16, 16]), ([8, 0], [16]), ([8, 0, 0], [16, 16, 1])])
def test_a_place_with_another_number_of_sides_is_damage_to_the_file(
    tmp_path: Path, at: list[int], of: list[int]
) -> None:
    said = refusal(in_two(tmp_path / "two", at=at, of=of))
    assert f"{NAME} is (8, 16), and its place is {tuple(at)} of {tuple(of)}" in said


@pytest.mark.parametrize("row", [0, 4, 7])
def test_parts_that_lie_over_each_other_are_not_taken_for_the_whole(
    tmp_path: Path, row: int
) -> None:
    said = refusal(in_two(tmp_path / "two", at=[row, 0]))
    assert f"{NAME} is there twice, or some of it, of (16, 16) by params.json" in said


def test_parts_overlap_where_they_do_along_every_side() -> None:
    quarters = [Rectangle((y, x), (2, 2), (4, 4), "F32") for y in (0, 2) for x in (0, 2)]
    assert not overlap(quarters)
    for y, x in ((0, 0), (1, 1), (3, 3), (0, 3)):
        assert overlap([*quarters, Rectangle((y, x), (1, 1), (4, 4), "F32")])
    assert not overlap([*quarters, Rectangle((1, 1), (0, 2), (4, 4), "F32")])  # of nothing


# -- names --


@pytest.mark.parametrize("name", ["tok_embeddings.weight", "layers.0.attention.wq.weight"])
def test_a_name_of_ours_in_a_file_of_transformers_is_a_strange_one(
    tmp_path: Path, name: str
) -> None:
    theirs().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), name: torch.ones(1)}, file)
    assert refusal(tmp_path) == f"{file}: '{name}' is in no model of config.json"


# -- memory --


def test_a_model_of_more_files_than_may_be_open_is_read(tmp_path: Path) -> None:
    whole = model(CONFIG).state_dict()
    save_config(CONFIG, tmp_path)
    for number in range(40):
        parts, places = {}, {}
        for name, each in whole.items():
            cut = each.tensor_split(40)
            if len(cut[number]):
                first = sum(map(len, cut[:number]))
                parts[name] = cut[number].clone()
                places[name] = [[first] + [0] * (each.dim() - 1), list(each.shape)]
        path = tmp_path / f"model-{number + 1:05d}-of-00040.safetensors"
        save_file(parts, path, {"places": json.dumps(places)})
    source = open_source(tmp_path)
    before = len([*Path("/dev/fd").iterdir()])
    arrays = [source.array(name) for name in whole]
    assert len([*Path("/dev/fd").iterdir()]) == before
    for array, each in zip(arrays, whole.values(), strict=True):
        assert (array == each.numpy()).all()


def test_only_the_memory_of_an_array_is_given_back() -> None:
    memory = np.frombuffer(mmap.mmap(-1, 4 * mmap.PAGESIZE, mmap.MAP_PRIVATE), np.uint8)
    memory[:] = 1
    one = memory[:1]
    one.flags.writeable = False
    for often in (as_strided(one, (len(memory),), (0,)), as_strided(one, (2, len(memory)), (0, 0))):
        often.flags.writeable = False
        let_go(often)  # one number for many: there is no more of it
    assert memory.all()
    page = memory[: mmap.PAGESIZE]
    page.flags.writeable = False
    let_go(page)
    assert not memory[: mmap.PAGESIZE].any()
    assert memory[mmap.PAGESIZE :].all()


def resident(path: Path) -> int:
    """Count the bytes of a file that this process has in memory."""
    found, here = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if not line.split()[0].endswith(":"):
            here = line.endswith(str(path))
        elif here and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux counts it")
@pytest.mark.parametrize(("dtype", "gap"), [(torch.float64, 0), (torch.float32, 1)])
def test_weights_that_are_copied_do_not_stay_in_memory_as_they_were(
    tmp_path: Path, dtype: torch.dtype, gap: int
) -> None:
    path = tmp_path / "model.safetensors"
    config = ModelConfig(dim=128, layers=2, heads=2, hidden=1024, vocab_size=16_000)
    save_file({k: v.to(dtype) for k, v in model(config).state_dict().items()}, path)
    length, rest = int.from_bytes(path.read_bytes()[:8], "little"), path.read_bytes()[8:]
    moved = (length + gap).to_bytes(8, "little") + rest[:length] + b" " * gap + rest[length:]
    path.write_bytes(moved)
    save_config(config, tmp_path)
    source = open_source(tmp_path)
    network = HostNetwork(config, source.array)
    assert network.config == config
    assert resident(path) < path.stat().st_size / 3  # pages come in groups
    assert source.array(NORM).sum() > 0  # it is still there
    assert resident(path) > 0  # and counted

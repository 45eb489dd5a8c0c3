"""Tensors in parts, on disk: written by any number of ranks, read by any other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from llama_cli.model.parts import files, shapes
from llama_cli.model.stored import Slice, fill, load_whole, save_slices

WHOLE = {
    "matrix": torch.arange(7 * 12, dtype=torch.float32).view(7, 12),
    "vector": torch.arange(7, dtype=torch.float64),
}


def cut(name: str, x: Tensor, rows: int, columns: int) -> list[Slice]:
    """Cut a tensor into rectangles as `chunk` does; the last may be empty."""
    found = []
    for row in _starts(len(x), rows):
        spans = _starts(x.shape[1], columns) if x.dim() > 1 else [slice(None)]
        for column in spans:
            where = (row, column)[: x.dim()]
            offset = tuple(each.start or 0 for each in where)
            found.append(Slice(name, tuple(x.shape), offset, x[where].contiguous()))
    return found


def _starts(length: int, parts: int) -> list[slice]:
    each = -(-length // parts)
    return [slice(min(n * each, length), min((n + 1) * each, length)) for n in range(parts)]


def write(directory: Path, rows: int, columns: int) -> list[Path]:
    """Write WHOLE as rows x columns ranks would; only the first of a row has its vector."""
    matrix, vector = (
        cut("matrix", WHOLE["matrix"], rows, columns),
        cut("vector", WHOLE["vector"], rows, 1),
    )
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        mine = [matrix[number], *([vector[row]] if column == 0 else [])]
        save_slices(mine, directory, "model", number + 1, rows * columns)
    return files(directory, "model")


def wanted(rows: int, columns: int) -> Iterator[list[Slice]]:
    """Give what each of rows x columns ranks is to read."""
    parts = cut("matrix", WHOLE["matrix"], rows, columns), cut("vector", WHOLE["vector"], rows, 1)
    for each in itertools.chain(*parts):
        yield [Slice(each.name, each.shape, each.offset, torch.full_like(each.tensor, -1.0))]


CUTS = st.tuples(st.integers(1, 9), st.sampled_from([1, 2, 3, 4]))


@given(CUTS, CUTS)
@settings(max_examples=40, deadline=None)
def test_what_some_ranks_wrote_any_others_read(
    tmp_path_factory: pytest.TempPathFactory, one: tuple[int, int], other: tuple[int, int]
) -> None:
    paths = write(tmp_path_factory.mktemp("cut"), *one)
    for (slice_,) in wanted(*other):
        fill(paths, [slice_])
        assert torch.equal(slice_.tensor, WHOLE[slice_.name][slice_.where])


def test_one_rank_writes_a_file_that_anybody_reads(tmp_path: Path) -> None:
    assert [path.name for path in write(tmp_path, 1, 1)] == ["model.safetensors"]
    held = load_file(tmp_path / "model.safetensors")
    assert held.keys() == WHOLE.keys()
    assert all(torch.equal(held[name], WHOLE[name]) for name in WHOLE)


def test_parts_are_put_together(tmp_path: Path) -> None:
    held = load_whole(write(tmp_path, 3, 2))
    assert all(torch.equal(held[name], WHOLE[name]) for name in WHOLE)
    assert all(held[name].dtype == WHOLE[name].dtype for name in WHOLE)
    assert shapes(files(tmp_path, "model")) == {"matrix": (7, 12), "vector": (7,)}


def test_no_more_files_are_opened_than_needed(tmp_path: Path) -> None:
    write(tmp_path, 4, 1)
    near = files(tmp_path, "model", near=3)
    assert near[0].name == "model-00003-of-00004.safetensors"
    for path in near[1:]:
        path.write_bytes(b"nothing")
    third = cut("matrix", WHOLE["matrix"], 4, 1)[2]
    mine = Slice("matrix", third.shape, third.offset, torch.zeros_like(third.tensor))
    fill(near, [mine])
    assert torch.equal(mine.tensor, third.tensor)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, 3, 1)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        files(tmp_path, "model")
    assert str(caught.value.filename).endswith("model-00002-of-00003.safetensors")
    with pytest.raises(FileNotFoundError):
        files(tmp_path, "optimizer")


def test_a_part_that_is_in_no_file_is_named(tmp_path: Path) -> None:
    paths = write(tmp_path, 3, 1)
    with pytest.raises(SafetensorError, match="matrix is not whole: 36 of its numbers are missing"):
        load_whole([paths[0], paths[2]])

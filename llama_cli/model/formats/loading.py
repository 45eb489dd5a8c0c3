"""A model's files poured into PyTorch's tensors: copied straight to where they are used.

A tensor is copied a block at a time, and files are closed again after a small share of it: loading
takes the memory of the weights and little more, whether they are whole, in shards, or in another
order of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from llama_cli.model import stored
from llama_cli.model.blank import blank
from llama_cli.model.config import EMBEDDING
from llama_cli.model.dtypes import torch_dtype
from llama_cli.model.formats.source import Source
from llama_cli.model.split import split_dim
from llama_cli.model.stored import Slice
from llama_cli.model.transformer import Transformer

SHARE = 32  # of a model that is read before its files are closed and opened again; ours


def pour(source: Source, wanted: Iterable[Slice]) -> None:
    """Read slices, which may lie on any device and in any order of memory.

    Raises:
        NotReadyError: a file is damaged.
    """
    with source.damage(source.directory):
        stored.pour(source.files, wanted, at_once=_at_once(source))


def _at_once(source: Source) -> int:
    return sum(held.bytes for file in source.files for held in file.held.values()) // SHARE


def tensors(source: Source, names: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Read whole tensors, one after the other; in the model's order, if no other is given.

    Raises:
        NotReadyError: a file is damaged.
    """
    entries, most = source.entries, _at_once(source)
    group: list[Slice] = []
    for name in entries if names is None else names:
        shape, dtype = entries[name]
        group.append(whole(name, torch.empty(shape, dtype=torch_dtype(dtype))))
        if sum(each.tensor.nbytes for each in group) > most:
            yield from _filled(source, group)
            group = []
    yield from _filled(source, group)


def _filled(source: Source, group: Sequence[Slice]) -> Iterator[tuple[str, Tensor]]:
    pour(source, group)
    yield from ((each.name, each.tensor) for each in group)


def whole(name: str, tensor: Tensor) -> Slice:
    """Ask for all of a tensor."""
    return Slice(name, tuple(tensor.shape), (0,) * tensor.dim(), tensor)


def load(
    source: Source,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    attention: str | None = None,
    columns: bool = False,
    part: tuple[int, int] = (0, 1),
) -> Transformer:
    """Build the model; dtype None keeps the one on disk.

    With `columns`, the matrices of products are laid out column by column, as PyTorch reads them
    best on a CPU, while they are read. `part`, a rank and a number of ranks, keeps that rank's
    share of each layer and of the head, for `inference.shared`.

    Raises:
        NotReadyError: a file is damaged.
    """
    with blank():
        model = Transformer(source.config, attention=attention)
    dtypes = source.dtypes
    looked_up = None if source.config.tied else EMBEDDING
    rooms = []
    for name, weight in model.named_parameters():
        turn = columns and weight.dim() == 2 and name != looked_up
        kept = dtype or torch_dtype(dtypes[name])
        rooms.append(_room(name, weight, part, turn=turn, dtype=kept, device=device))
    pour(source, rooms)
    for name, tensor in ((room.name, room.tensor) for room in rooms):
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, nn.Parameter(tensor))
    model.tie()
    return model


def _room(
    name: str,
    weight: Tensor,
    part: tuple[int, int],
    *,
    turn: bool,
    dtype: torch.dtype,
    device: str,
) -> Slice:
    """Make room for a rank's share of a weight; the embedding is whole on all."""
    shape, offset = list(weight.shape), [0] * weight.dim()
    dim = None if name == EMBEDDING else split_dim(name)
    if dim is not None:
        shape[dim] //= part[1]
        offset[dim] = part[0] * shape[dim]
    room = torch.empty(shape[::-1] if turn else shape, dtype=dtype, device=device)
    return Slice(name, tuple(weight.shape), tuple(offset), room.t() if turn else room)

"""A model that lies in some files: its config, and its tensors by our names, as they are needed.

A tensor is copied from its file straight to where it is used, a block at a time, and files are
closed again after a small share of it: loading takes the memory of the weights and little more,
whether they are whole, in shards, or in another order of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from llama_cli.errors import NotReadyError
from llama_cli.model.blank import blank
from llama_cli.model.config import ModelConfig
from llama_cli.model.safetensors import Kind
from llama_cli.model.split import split_dim
from llama_cli.model.stored import File, Rectangle, Slice, pour
from llama_cli.model.transformer import Transformer

SHARE = 32  # of a model that is read before its files are closed and opened again; ours
TOKENIZER = "tokenizer.model"
EMBEDDING = "tok_embeddings.weight"
HEAD = "output.weight"


@dataclass(frozen=True, slots=True)
class Source:
    """A model in files."""

    directory: Path
    config: ModelConfig
    about: Path  # the file that says so
    files: Sequence[File]
    tokenizer: Path  # where it is to be
    hint: str  # what to do where something is missing or damaged
    is_ours: bool = False  # made by `llama train`, so that it can be made again
    shown: Callable[[str], str] = str  # the name that the files have for a tensor

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        """Give what each tensor is kept in, by name."""
        held = (item for file in self.files for item in file.held.items())
        return {name: each.dtype for name, each in held if each.dtype}

    @property
    def entries(self) -> dict[str, Kind]:
        """Give shape and dtype of each tensor, in the model's order."""
        dtypes = self.dtypes
        return {k: (shape, dtypes[k]) for k, shape in parameter_shapes(self.config).items()}

    def check(self) -> None:
        """Look whether the files hold the tensors of the config and no others, each once.

        Raises:
            NotReadyError: they do not.
        """
        shapes = parameter_shapes(self.config)
        missing = {name: prod(shape) for name, shape in shapes.items()}
        order = {name: number for number, name in enumerate(shapes)}
        for file in self.files:
            with self._damage(file.path):
                held = file.held
            for name in sorted(held, key=lambda name: order.get(name, -1)):
                self._check(file, name, held[name], shapes.get(name))
                missing[name] -= prod(held[name].shape)
        for name, count in missing.items():
            if count:
                where = self.files[0].path if len(self.files) == 1 else self.directory
                what = "is missing" if count == prod(shapes[name]) else "is not whole"
                raise NotReadyError(
                    f"{where}: {self.shown(name)} {what}, of {shapes[name]} by {self.about.name}",
                    hint=self.hint,
                )

    def _check(self, file: File, name: str, held: Rectangle, shape: tuple[int, ...] | None) -> None:
        if shape is None:
            why = f"{name} is in no model of {self.about.name}"
        elif held.whole != shape:
            why = f"{self.shown(name)} is {held.whole}, not the {shape} of {self.about.name}"
        elif held.dtype is None:
            why = f"{self.shown(name)} is not in fp32, bf16 or fp16: quantised weights are not read"
        else:
            return
        raise NotReadyError(f"{file.path}: {why}", hint=self.hint)

    def pour(self, wanted: Iterable[Slice]) -> None:
        """Read slices, which may lie on any device and in any order of memory.

        Raises:
            NotReadyError: a file is damaged.
        """
        with self._damage(self.directory):
            pour(self.files, wanted, at_once=self._at_once)

    @property
    def _at_once(self) -> int:
        return sum(held.bytes for file in self.files for held in file.held.values()) // SHARE

    def mapped(self, name: str, shape: tuple[int, ...]) -> Tensor | None:
        """Give a tensor where it lies in its file, if it lies there whole, row after row.

        It takes no memory but what the system keeps of the file, and is read when it is used.

        Raises:
            NotReadyError: the file is damaged.
        """
        for file in self.files:
            with self._damage(file.path):
                held = file.held.get(name)
                if held is None or held.shape != shape:
                    continue
                with file.open() as read:
                    found = read(name, tuple(slice(0, length) for length in shape))
                return found if found.is_contiguous() else None
        return None

    def tensors(self, names: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Read whole tensors, one after the other; in the model's order, if no other is given."""
        entries, most = self.entries, self._at_once
        group: list[Slice] = []
        for name in entries if names is None else names:
            shape, dtype = entries[name]
            group.append(whole(name, torch.empty(shape, dtype=dtype)))
            if sum(each.tensor.nbytes for each in group) > most:
                yield from self._filled(group)
                group = []
        yield from self._filled(group)

    def _filled(self, group: Sequence[Slice]) -> Iterator[tuple[str, Tensor]]:
        self.pour(group)
        yield from ((each.name, each.tensor) for each in group)

    @contextmanager
    def _damage(self, path: Path) -> Iterator[None]:
        try:
            yield
        except SafetensorError as error:
            found = str(error).splitlines()[-1].strip()
            raise NotReadyError(f"{path}: {found}", hint=self.hint) from None


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Give the shape of every parameter, in the model's order; a tied head has none of its own."""
    with blank():
        model = Transformer(config)
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


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
    mapped: bool = False,
    part: tuple[int, int] = (0, 1),
) -> Transformer:
    """Build the model; dtype None keeps the one on disk.

    With `columns`, the matrices of products are laid out column by column, as PyTorch reads them
    best on a CPU, while they are read. With `mapped`, what can stay in its file does (`mapped`
    above): the model is not to be written to. `part`, a rank and a number of ranks, keeps that
    rank's share of each layer and of the head, for `inference.shared`.

    Raises:
        NotReadyError: a file is damaged.
    """
    with blank():
        model = Transformer(source.config, attention=attention)
    dtypes = source.dtypes
    looked_up = None if source.config.tied else EMBEDDING
    found, rooms = {}, []
    for name, weight in model.named_parameters():
        kept = dtype or dtypes[name]
        there = (
            source.mapped(name, tuple(weight.shape)) if mapped and kept == dtypes[name] else None
        )
        if there is None:
            turn = columns and weight.dim() == 2 and name != looked_up
            room = _room(name, weight, part, turn=turn, dtype=kept, device=device)
            rooms.append(room)
            there = room.tensor
        found[name] = there
    source.pour(rooms)
    for name, tensor in found.items():
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

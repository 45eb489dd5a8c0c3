"""A model that lies in some files: its config, and its tensors by our names, as they are needed.

A tensor is taken as it lies in its file, mapped into memory, where it lies there whole and in our
order of rows; else it is put together from what the files have of it. Loading takes the memory of
the weights and little more. How PyTorch's tensors are filled is the matter of `loading`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from llama_cli.errors import NotReadyError
from llama_cli.model.config import ModelConfig, parameter_shapes
from llama_cli.model.dtypes import ARRAYS, Array, DType, converted
from llama_cli.model.parts import File, Rectangle, let_go, overlap
from llama_cli.model.safetensors import Kind

TOKENIZER = "tokenizer.model"


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
    def dtypes(self) -> Mapping[str, DType]:
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
        parts: dict[str, list[Rectangle]] = {name: [] for name in shapes}
        order = {name: number for number, name in enumerate(shapes)}
        for file in self.files:
            with self.damage(file.path):
                held = file.held
            for name in sorted(held, key=lambda name: order.get(name, -1)):
                self._check(file, name, held[name], shapes.get(name))
                parts[name].append(held[name])
        for name, shape in shapes.items():
            if what := _lacking(parts[name], shape):
                where = self.files[0].path if len(self.files) == 1 else self.directory
                raise NotReadyError(
                    f"{where}: {self.shown(name)} {what}, of {shape} by {self.about.name}",
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

    def array(self, name: str) -> Array:
        """Give a whole tensor; it takes no memory of its own where it lies in a file as it is.

        Raises:
            NotReadyError: the file is damaged.
        """
        parts = [(file, file.held[name]) for file in self.files if name in file.held]
        first, held = parts[0]
        if held.shape == held.whole:
            with self.damage(first.path):
                return first.array(name)
        wanted = _widest([held.dtype for _, held in parts if held.dtype])
        made: Array = np.empty(held.whole, ARRAYS[wanted])
        for file, held in parts:
            with self.damage(file.path):
                found = file.array(name)
            made[held.where] = converted(found, wanted)
            let_go(found)
        return made

    @contextmanager
    def damage(self, path: Path) -> Iterator[None]:
        """Say what is wrong with a file that is read meanwhile.

        Raises:
            NotReadyError: it is damaged.
        """
        try:
            yield
        except SafetensorError as error:
            found = str(error).splitlines()[-1].strip()
            raise NotReadyError(f"{path}: {found}", hint=self.hint) from None


def _lacking(parts: Sequence[Rectangle], shape: tuple[int, ...]) -> str:
    """Say what is wrong with the parts of a tensor; nothing, if they are all of it, each once."""
    held, whole = sum(prod(each.shape) for each in parts), prod(shape)
    if not held and whole:
        return "is missing"
    if overlap(parts):
        return "is there twice, or some of it"
    return "is not whole" if held != whole else ""


def _widest(dtypes: Sequence[DType]) -> DType:
    """Give the dtype that numbers of all of these are kept in as they are."""
    if len(set(dtypes)) == 1:
        return dtypes[0]
    return "F64" if "F64" in dtypes else "F32"

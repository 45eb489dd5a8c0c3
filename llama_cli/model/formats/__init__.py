"""Weights as others keep them, in and out: whose layout a directory has, its files say.

    llama  params.json, model.safetensors                    ours.py          of `llama train`
    meta   params.json, consolidated.NN.pth                  meta.py          of Meta's releases
    hf     config.json, model.safetensors, perhaps in parts  hugging_face.py  of transformers

Each is opened as a `Source` (source.py), which says what model it is and gives its tensors by our
names; each can be written from one. Nothing in a file is ever run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

from llama_cli.errors import NotReadyError
from llama_cli.model.formats import hugging_face, meta, ours
from llama_cli.model.formats.source import Source

Kind = Literal["llama", "hf", "meta"]
KINDS: tuple[Kind, ...] = get_args(Kind)


OPEN: Mapping[Kind, Callable[[Path], Source]] = {
    "llama": ours.open_source,
    "hf": hugging_face.open_source,
    "meta": meta.open_source,
}


def kind_of(directory: Path) -> Kind | None:
    """Say whose layout a directory has; None if it holds no model."""
    if (directory / hugging_face.CONFIG).is_file():
        return "hf"
    if any(directory.glob(meta.PATTERN)):
        return "meta"
    return "llama" if (directory / ours.PARAMS).is_file() else None


def open_source(directory: Path) -> Source:
    """Open the model of a directory, and check that every tensor is there in its shape.

    Raises:
        NotReadyError: there is none, files are missing, damaged or hold code, it is no model of
            ours, or its tensors are not those of its parameters.
    """
    kind = kind_of(directory)
    if kind is None:
        raise NotReadyError(f"no model at {directory}", hint=ours.HINT)
    source = OPEN[kind](directory)
    source.check()
    return source


def write(kind: Kind, source: Source, directory: Path, *, shards: int = 1) -> None:
    """Write a model into an empty directory in another layout, its tokenizer apart.

    `shards` is for "meta": the GPUs that are to share each layer.

    Raises:
        UsageError: the model does not divide by so many.
        OSError: it cannot be written, as when the disk is full.
    """
    if kind == "meta":
        meta.write(source, directory, shards=shards)
    elif kind == "hf":
        hugging_face.write(source, directory)
    else:
        ours.write(source, directory)

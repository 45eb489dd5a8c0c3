"""Meta's layout: params.json, and consolidated.00.pth or one file for each GPU.

The files are pickles of torch's. They are read by torch's own reader of tensors alone, mapped into
memory: a pickle that asks for anything else is refused, and nothing of it runs. What each GPU has
of a tensor follows from how Meta's code splits it (fairscale's parallel layers):

    wq wk wv w1 w3 output    rows       wo w2           columns
    tok_embeddings           columns    norms           all of it

The vocabulary of the embedding was split by rows in later code, which its shape tells.
https://github.com/meta-llama/llama, llama/model.py and generation.py
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import product, starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_cli.errors import NotReadyError, UsageError, naming
from llama_cli.kernels import host
from llama_cli.model import split
from llama_cli.model.config import EMBEDDING, HEAD, ModelConfig, swiglu_hidden
from llama_cli.model.dtypes import Array, DType, as_array, named, torch_dtype
from llama_cli.model.formats.source import TOKENIZER, Source
from llama_cli.model.parts import Read, Rectangle

if TYPE_CHECKING:
    from torch import Tensor

    from llama_cli.model.safetensors import Kind
    from llama_cli.model.stored import Slice

PARAMS, PATTERN = "params.json", "consolidated.*.pth"
CONTEXT = "context.json"  # ours: Meta's params do not say how long a context was trained on
NUMBERED = re.compile(r"consolidated\.(\d\d)\.pth")
SPLIT = {**split.SPLIT, EMBEDDING.partition(".")[0]: 1}
PASSED_OVER = "rope.freqs"  # which follow from params.json
REFUSED = ("use_scaled_rope", "quantization_args", "lora_args")  # of Llama 3.1 and later

Found = tuple[tuple[int, ...], DType | None]  # a shape, and a dtype if weights may be in it

MULTIPLES = (256, 4096, 2048, 1024, 512, 128, 64, 32, 16, 8, 4, 2, 1)  # the releases' first
PLAIN_THETA = 10_000.0

# Positions trained on, as far as params.json tells the releases apart: by its eps LLaMA, whose
# 2,048 are the paper's, and by its base of angles Llama 3, and Code Llama; the rest is Llama 2.
FIRST_EPS, FIRST_CONTEXT, SECOND_CONTEXT = 1e-6, 2048, 4096
CONTEXT_BY_THETA = {500_000.0: 8192, 1_000_000.0: 16_384}


# -- reading --


class Shard:
    """One of the files: what one GPU has of each tensor."""

    def __init__(self, path: Path, held: Mapping[str, Rectangle]) -> None:
        self.path, self._held = path, held

    @property
    def held(self) -> Mapping[str, Rectangle]:
        """Say what is in it."""
        return self._held

    @contextmanager
    def open(self) -> Iterator[Read]:
        """Let it be read from."""
        tensors = read_tensors(self.path)
        yield lambda name, where: tensors[name][where]

    def array(self, name: str) -> Array:
        """Give what it holds of a tensor, where it lies."""
        lies = as_array(self._tensors[name])
        lies.flags.writeable = False
        return lies

    @cached_property
    def _tensors(self) -> Mapping[str, Tensor]:
        tensors = read_tensors(self.path)
        places = [each.untyped_storage() for each in tensors.values()]  # all of one mapping
        first = min(each.data_ptr() for each in places)
        last = max(each.data_ptr() + each.nbytes() for each in places)
        host.watch(self, first, last - first, str(self.path))
        return tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Map a file into memory; nothing of it is run, and little of it read yet.

    Raises:
        NotReadyError: it is cut short, holds something else than tensors, or is of another kind.
    """
    import torch  # whose pickles they are

    try:
        found = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)|unsupported global[: ]+(\S+)", str(error), re.IGNORECASE)
        what = (
            f"code ({(named[1] or named[2]).strip('`')})"
            if named
            else "something else than tensors"
        )
        raise NotReadyError(f"{path}: holds {what}, and was not opened", hint=UNTRUSTED) from None
    except Exception:  # whatever the reader of a damaged file meets
        raise NotReadyError(
            f"{path}: cut short, or no file of torch's", hint=_again(path)
        ) from None
    if not isinstance(found, dict) or not all(starmap(_is_named_tensor, found.items())):
        raise NotReadyError(f"{path}: holds something else than tensors", hint=UNTRUSTED)
    return {name: tensor for name, tensor in found.items() if name != PASSED_OVER}


def _is_named_tensor(name: object, held: object) -> bool:
    """Tell whether it is a matrix or a vector with all its numbers, as weights are."""
    from torch import Tensor, strided

    return isinstance(name, str) and isinstance(held, Tensor) and held.layout == strided


def open_source(directory: Path) -> Source:
    """Open a directory of a release.

    Raises:
        NotReadyError: files are missing or damaged, or it is no model of ours.
    """
    about = directory / PARAMS
    paths = weight_files(directory)
    found = [_entries(read_tensors(path)) for path in paths]
    try:
        config = _config(about, found)
    except FileNotFoundError:
        raise NotReadyError(f"no parameters at {about}", hint=_again(about)) from None
    except KeyError as error:
        raise NotReadyError(f"{about}: no {error.args[0]}", hint=_again(about)) from None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        message = f"{about}: not a model's parameters: {error}"
        raise NotReadyError(message, hint=_again(about)) from None
    _refuse_missing(directory, found, config)
    beside = directory / TOKENIZER
    return Source(
        directory,
        config,
        about=about,
        files=[Shard(path, held) for path, held in zip(paths, _place(found, config), strict=True)],
        tokenizer=beside if beside.exists() else directory.parent / TOKENIZER,
        hint=f"copy all files into {directory} again",
    )


def weight_files(directory: Path) -> list[Path]:
    """List the files of the GPUs, in order.

    Raises:
        NotReadyError: one is missing between others.
    """
    held = (path for path in directory.iterdir() if path.is_file())
    numbers = sorted(int(found[1]) for path in held if (found := _number(path)))
    for number in range(max(numbers, default=0) + 1):
        if number not in numbers:
            raise _missing(directory, number)
    return [directory / name_of(number) for number in numbers]


def name_of(number: int) -> str:
    """Name a file.

    >>> name_of(7)
    'consolidated.07.pth'
    """
    return f"consolidated.{number:02d}.pth"


def _number(path: Path) -> re.Match[str] | None:
    return NUMBERED.fullmatch(path.name)


def _missing(directory: Path, number: int) -> NotReadyError:
    path = directory / name_of(number)
    return NotReadyError(f"{path} is missing", hint=_again(path))


def _entries(tensors: Mapping[str, Tensor]) -> dict[str, Found]:
    return {name: (tuple(tensor.shape), named(tensor.dtype)) for name, tensor in tensors.items()}


def _config(about: Path, found: Sequence[Mapping[str, Found]]) -> ModelConfig:
    """Read params.json; the vocabulary, which it may leave to the tokenizer, is the embedding's."""
    params = json.loads(about.read_text(encoding="utf-8"))
    for field in REFUSED:
        if params.get(field):
            raise NotReadyError(f"{about}: {field} is set, which is not read", hint=OTHERS)
    config = ModelConfig.from_params(params)
    if int(params.get("vocab_size", -1)) < 0 and EMBEDDING in found[0]:
        rows, width = found[0][EMBEDDING][0]
        config = replace(config, vocab_size=rows * (len(found) if width == config.dim else 1))
    return config if "context" in params else replace(config, context=_context(about, config))


def _context(about: Path, config: ModelConfig) -> int:
    path = about.with_name(CONTEXT)
    if path.is_file():
        return int(json.loads(path.read_text(encoding="utf-8"))["context"])
    if config.norm_eps == FIRST_EPS:
        return FIRST_CONTEXT
    return CONTEXT_BY_THETA.get(config.rope_theta, SECOND_CONTEXT)


def _refuse_missing(
    directory: Path, found: Sequence[Mapping[str, Found]], config: ModelConfig
) -> None:
    """Say so if the last files are missing: the others then have less than all rows."""
    shape = found[0].get("layers.0.attention.wq.weight", ((config.dim,), None))[0]
    rows = shape[0] if shape else 0
    if rows and config.dim % rows == 0 and config.dim // rows > len(found):
        raise _missing(directory, len(found))


def _place(found: Sequence[Mapping[str, Found]], config: ModelConfig) -> list[dict[str, Rectangle]]:
    """Say where in the whole lies what each file has; what all have is taken from the first."""
    placed: list[dict[str, Rectangle]] = [{} for _ in found]
    for name in dict.fromkeys(name for entries in found for name in entries):
        dim, at = split.split_dim(name, SPLIT), 0
        if (
            name == EMBEDDING
            and len(found) > 1
            and found[0].get(name, ((),))[0][1:] == (config.dim,)
        ):
            dim = 0
        parts = [(n, *entries[name]) for n, entries in enumerate(found) if name in entries]
        for n, shape, dtype in parts if dim is not None else parts[:1]:
            offset, whole = [0] * len(shape), list(shape)
            if dim is not None and all(dim < len(each[1]) for each in parts):
                offset[dim], whole[dim] = at, sum(each[1][dim] for each in parts)
                at += shape[dim]
            placed[n][name] = Rectangle(tuple(offset), shape, tuple(whole), dtype)
    return placed


def _again(path: Path) -> str:
    return f"copy {path.name} into {path.parent} again"


# -- writing --


def write(source: Source, directory: Path, *, shards: int = 1) -> None:
    """Write a model into an empty directory, its tokenizer apart; one file is in memory at a time.

    A tied head is written as one of its own, which Meta's code reads.

    Raises:
        UsageError: it does not divide by so many files.
        OSError: it cannot be written, as when the disk is full.
    """
    from llama_cli.model.formats.loading import pour

    config, entries = source.config, source.entries
    _check(config, shards)
    for number in range(shards):
        path = directory / name_of(number)
        parts = [_part(name, entry, number, shards) for name, entry in entries.items()]
        pour(source, parts)
        if config.tied:
            head = _part(HEAD, entries[EMBEDDING], number, shards)
            pour(source, [replace(head, name=EMBEDDING)])
            parts.append(head)
        _save({each.name: each.tensor for each in parts}, path)
    _put(directory / PARAMS, to_params(config))
    _put(directory / CONTEXT, {"context": config.context})


def _save(state: dict[str, Tensor], path: Path) -> None:
    import torch

    with naming(str(path)), path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch closes its file after a write that failed, and fails
            cause = error.__context__
            raise cause if isinstance(cause, OSError) else error from None


def _part(name: str, entry: Kind, number: int, shards: int) -> Slice:
    """Make room for what one of the GPUs has of a tensor."""
    import torch

    from llama_cli.model.stored import Slice

    (shape, dtype), dim = entry, split.split_dim(name, SPLIT)
    offset, length = [0] * len(shape), list(shape)
    if dim is not None:
        length[dim] //= shards
        offset[dim] = number * length[dim]
    return Slice(name, shape, tuple(offset), torch.empty(length, dtype=torch_dtype(dtype)))


def _check(config: ModelConfig, shards: int) -> None:
    for what, number in (
        ("heads", config.heads),
        ("heads of keys and values", config.key_heads),
        ("hidden width", config.hidden),
        ("pieces of the vocabulary", config.vocab_size),
    ):
        if number % shards:
            raise UsageError(
                f"the {number:,} {what} do not divide by {shards} files",
                hint="llama generate --export meta OUT --shards 1",
            )


def to_params(config: ModelConfig) -> dict[str, Any]:
    """Say params.json with the keys that Meta's code knows, and no others: it takes none."""
    multiple, times = _rounding(config)
    optional = {
        "n_kv_heads": config.kv_heads,
        "ffn_dim_multiplier": times if times != 1 else None,
        "rope_theta": config.rope_theta if config.rope_theta != PLAIN_THETA else None,
    }
    return {
        "dim": config.dim,
        "multiple_of": multiple,
        "n_heads": config.heads,
        "n_layers": config.layers,
        "norm_eps": config.norm_eps,
        "vocab_size": config.vocab_size,
        **{name: value for name, value in optional.items() if value},
    }


def _rounding(config: ModelConfig) -> tuple[int, float]:
    """Find `multiple_of` and `ffn_dim_multiplier` that give the hidden width.

    >>> _rounding(ModelConfig(dim=8192, layers=1, heads=64, hidden=28_672))
    (4096, 1.3)
    """
    ratio = config.hidden / (8 * config.dim // 3)
    exact = (config.hidden + 0.5) / (8 * config.dim // 3)
    times = (1.0, *(round(ratio, digits) for digits in range(1, 9)), exact)
    found = product(times, MULTIPLES)
    return next((m, t) for t, m in found if swiglu_hidden(config.dim, m, t) == config.hidden)


def _put(path: Path, told: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


OTHERS = "a release of LLaMA or Llama 2"
UNTRUSTED = "the same model in safetensors"

"""Hugging Face's layout: config.json, and model.safetensors or its shards with an index.

Names are other than Meta's, and in each head of q and k the rows that rotary positions turn as
pairs lie half a head apart, not beside each other: row (j, i) of theirs, j of 2 and i of D / 2, is
row (i, j) of ours. What a config may say beyond LLaMA is refused by the name of its field.

    model.safetensors.index.json    {"weight_map": {NAME: FILE}}
    model-00001-of-00002.safetensors

https://github.com/huggingface/transformers, models/llama. Legend: D head width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llama_cli.errors import NotReadyError
from llama_cli.model.config import EMBEDDING, HEAD, NORM, ModelConfig
from llama_cli.model.dtypes import TORCH_NAMES, Array
from llama_cli.model.formats.source import TOKENIZER, Source
from llama_cli.model.parts import Parts, Read, Rectangle, Where, let_go
from llama_cli.model.safetensors import Kind, size_of, write_safetensors

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, GENERATION = "config.json", "generation_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
LIMIT = 5 * 10**9  # bytes of a file; transformers' own for years

NAMES = {
    EMBEDDING: "model.embed_tokens.weight",
    NORM: "model.norm.weight",
    HEAD: "lm_head.weight",
}
LAYER_NAMES = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
TURNED = ("attention.wq.weight", "attention.wk.weight")
PASSED_OVER = "rotary_emb.inv_freq"  # which old files hold, and the config says

# What a config may say, and what it must say for its model to be ours.
ONLY: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("llama",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "hidden_act": ("silu", "swish", None),
    "quantization_config": (None,),
    "partial_rotary_factor": (1, None),
    "sliding_window": (None,),
}
ROPE_TYPES = ("default", None)


# -- names and rows --


def their_name(name: str) -> str:
    """Give transformers' name of a parameter.

    >>> their_name("layers.3.attention.wq.weight")
    'model.layers.3.self_attn.q_proj.weight'
    """
    if name in NAMES:
        return NAMES[name]
    _, layer, rest = name.split(".", 2)
    return f"model.layers.{layer}.{LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def our_names(layers: int, *, tied: bool) -> dict[str, str]:
    """Give our names by transformers'."""
    inner = [f"layers.{n}.{each}.weight" for n in range(layers) for each in LAYER_NAMES]
    return {their_name(name): name for name in (*NAMES, *inner) if not (tied and name == HEAD)}


Rows = TypeVar("Rows", "Tensor", Array)


def beside(rows: Rows, head_dim: int) -> Rows:
    """Bring the two of each rotary pair together, in every head.

    >>> import numpy as np
    >>> beside(np.array([[0], [1], [2], [3]]), 4).flatten().tolist()
    [0, 2, 1, 3]
    """
    parts = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return parts.swapaxes(1, 2).reshape(rows.shape)


def apart(rows: Rows, head_dim: int) -> Rows:
    """Take them apart again.

    >>> import numpy as np
    >>> apart(np.array([[0], [2], [1], [3]]), 4).flatten().tolist()
    [0, 1, 2, 3]
    """
    parts = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return parts.swapaxes(1, 2).reshape(rows.shape)


# -- reading --


class Shard:
    """One of the files, by our names."""

    def __init__(self, path: Path, names: Mapping[str, str], head_dim: int) -> None:
        self.path, self._file, self._ours = path, Parts(path), names
        self._theirs = {mine: theirs for theirs, mine in names.items()}
        self._head_dim = head_dim

    @cached_property
    def held(self) -> Mapping[str, Rectangle]:
        """Say what is in it."""
        return {
            self._ours.get(name) or self._strange(name): each
            for name, each in self._file.held.items()
            if name in self._ours or not self._is_spare(name)
        }

    def _strange(self, name: str) -> str:
        """Tell a name that is none of theirs from ours, which it may be."""
        return repr(name) if name in self._theirs else name

    def _is_spare(self, name: str) -> bool:
        return name.endswith(PASSED_OVER) or name == NAMES[HEAD]  # of a tied model

    @contextmanager
    def open(self) -> Iterator[Read]:
        """Let it be read from."""
        with self._file.open() as read:

            def found(name: str, where: Where) -> Tensor:
                if not name.endswith(TURNED):
                    return read(self._theirs[name], where)
                (rows, *rest), width = where, self._head_dim
                first = rows.start // width * width  # a pair lies somewhere in its head
                last = -(-rows.stop // width) * width
                heads = beside(read(self._theirs[name], (slice(first, last), *rest)), width)
                return heads[rows.start - first : rows.stop - first]

            yield found

    def array(self, name: str) -> Array:
        """Give what it holds of a tensor: where it lies, unless its rows are to be turned."""
        lies = self._file.array(self._theirs[name])
        if not name.endswith(TURNED):
            return lies
        turned = beside(lies, self._head_dim)
        let_go(lies)
        return turned


def open_source(directory: Path) -> Source:
    """Open a directory of transformers'.

    Raises:
        NotReadyError: files are missing, or the config says what no LLaMA is.
    """
    config = read_config(directory)
    names = our_names(config.layers, tied=config.tied)
    files = weight_files(directory)
    return Source(
        directory,
        config,
        about=directory / CONFIG,
        files=[Shard(path, names, config.head_dim) for path in files],
        tokenizer=directory / TOKENIZER,
        hint=f"copy {files[0].name if len(files) == 1 else 'all files'} into {directory} again",
        shown=their_name,
    )


def read_config(directory: Path) -> ModelConfig:
    """Read config.json.

    Raises:
        NotReadyError: it is no model of ours, or damaged.
    """
    path = directory / CONFIG
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        _refuse_others(path, told)
        return _config(told)
    except KeyError as error:
        raise NotReadyError(f"{path}: no {error.args[0]}", hint=_again(path)) from None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise NotReadyError(f"{path}: not a model's config: {error}", hint=_again(path)) from None


def _refuse_others(path: Path, told: Mapping[str, Any]) -> None:
    for field, allowed in ONLY.items():
        value = told.get(field)
        if value is None and value not in allowed:
            raise NotReadyError(f"{path}: no {field}", hint=OTHERS)
        if value not in allowed:
            shown = value if isinstance(value, (str, int, float)) else "set"
            raise NotReadyError(f"{path}: {field} is {shown}, which no LLaMA has", hint=OTHERS)
    for field in ("rope_scaling", "rope_parameters"):
        rope = told.get(field) or {}
        kind = rope.get("rope_type", rope.get("type"))
        if kind not in ROPE_TYPES:
            raise NotReadyError(
                f"{path}: {field} is of type {kind}, which is not read", hint=OTHERS
            )
    width, heads = int(told["hidden_size"]), int(told["num_attention_heads"])
    if told.get("head_dim") not in (None, width // max(heads, 1)):
        raise NotReadyError(
            f"{path}: head_dim is {told['head_dim']}, not {width} over {heads} heads", hint=OTHERS
        )


def _config(told: Mapping[str, Any]) -> ModelConfig:
    rope = told.get("rope_parameters") or {}
    return ModelConfig(
        dim=int(told["hidden_size"]),
        layers=int(told["num_hidden_layers"]),
        heads=int(told["num_attention_heads"]),
        hidden=int(told["intermediate_size"]),
        vocab_size=int(told["vocab_size"]),
        context=int(told.get("max_position_embeddings", 2048)),
        norm_eps=float(told.get("rms_norm_eps", 1e-6)),  # transformers' own
        rope_theta=float(rope.get("rope_theta", told.get("rope_theta", 10_000.0))),
        kv_heads=int(told.get("num_key_value_heads") or 0),
        tied=bool(told.get("tie_word_embeddings", False)),
    )


def weight_files(directory: Path) -> list[Path]:
    """List the files with weights: one, or those of the index.

    Raises:
        NotReadyError: there is none, or one of several is missing.
    """
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    index = directory / INDEX
    if not index.is_file():
        pickle = next((name for name in PICKLES if (directory / name).exists()), None)
        if pickle:
            raise NotReadyError(
                f"{directory / pickle}: a pickle, and only {SINGLE} is read",
                hint="model.save_pretrained(DIR) in transformers",
            )
        raise NotReadyError(f"no weights at {directory / SINGLE}", hint=_again(directory / SINGLE))
    for path in (found := _indexed(index)):
        if not path.is_file():
            raise NotReadyError(f"{path} is missing, which {INDEX} names", hint=_again(path))
    return found


def _indexed(index: Path) -> list[Path]:
    try:
        named = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not named or any(Path(name).name != name for name in named):
            raise ValueError("no names of files")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotReadyError(f"{index}: not an index of weights", hint=_again(index)) from None
    return [index.with_name(name) for name in named]


def _again(path: Path) -> str:
    return f"copy {path.name} into {path.parent} again"


# -- writing --


def write(source: Source, directory: Path, *, limit: int = LIMIT) -> None:
    """Write a model into an empty directory, its tokenizer apart.

    Raises:
        OSError: it cannot be written, as when the disk is full.
    """
    from llama_cli.model.formats.loading import tensors  # and with it PyTorch

    parts = _parts(source.entries, limit)
    head_dim = source.config.head_dim
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = SINGLE if len(parts) == 1 else f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        turned = (
            apart(tensor, head_dim) if mine.endswith(TURNED) else tensor
            for mine, tensor in tensors(source, part)
        )
        theirs = {their_name(mine): entry for mine, entry in part.items()}
        write_safetensors(directory / name, theirs, turned)
        weight_map |= dict.fromkeys(theirs, name)
    if len(parts) > 1:
        total = sum(map(size_of, source.entries.values()))
        _put(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    dtype = TORCH_NAMES[source.dtypes[EMBEDDING]]
    _put(directory / CONFIG, to_config(source.config, dtype))
    _put(directory / GENERATION, {"bos_token_id": 1, "eos_token_id": 2})


def _parts(entries: Mapping[str, Kind], limit: int) -> Sequence[dict[str, Kind]]:
    """Deal tensors out to files of at most `limit` bytes, or of one tensor."""
    parts: list[dict[str, Kind]] = [{}]
    size = 0
    for name, entry in entries.items():
        if parts[-1] and size + size_of(entry) > limit:
            parts.append({})
            size = 0
        parts[-1][name] = entry
        size += size_of(entry)
    return parts


def to_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """Say config.json so that transformers of 4 and of 5 read it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.dim,
        "intermediate_size": config.hidden,
        "max_position_embeddings": config.context,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.key_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def _put(path: Path, told: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


OTHERS = "a directory whose config.json has model_type llama and nothing beyond it"

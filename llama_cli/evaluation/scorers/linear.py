"""A scorer of one weight a feature, learned from texts that something else has scored.

    score = bias + sum of weight * tf-idf, within 0 and 1

Term frequency is 1 + ln count; the inverse document frequency is smoothed, ln((1 + N) / (1 + n))
+ 1; words and characters are each scaled to length 1, as scikit-learn does. The model is a
safetensors file, `keys`, `idf` and `weight` of each feature, and its metadata hold what it was
fitted on and how well it agreed with scores it had not seen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_cli.errors import LlamaError, NotReadyError
from llama_cli.evaluation.scorers.features import Counts, features
from llama_cli.overlap.grams import U64, Keys
from llama_cli.stream.writer import open_output

Floats = NDArray[np.float64]
Stored = NDArray[np.float32]
Places = NDArray[np.int64]

FORMAT = "llama-linear-scorer-1"


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well a scorer follows given scores of texts it was not fitted on.

    `auroc` is the chance that a text scored 0.5 or more gets more than one scored less; None
    where there are not both.
    """

    n: int
    pearson: float | None
    auroc: float | None

    def __str__(self) -> str:
        figures = {"Pearson": self.pearson, "AUROC": self.auroc}
        told = (f"{name} {value:.3f}" for name, value in figures.items() if value is not None)
        return ", ".join([*told, f"n = {self.n:,}"])


@dataclass(frozen=True, slots=True)
class Linear:
    """A fitted scorer. `keys` are sorted; `fitted` counts the texts it has learned from."""

    name: str
    keys: Keys
    idf: Stored
    weight: Stored
    bias: float
    fitted: int
    agreement: Agreement

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Score texts; one of words it does not know gets the mean, one of nothing 0."""
        return [self._score(text) if text.strip() else 0.0 for text in texts]

    def _score(self, text: str) -> float:
        places, values = scaled(*features(text), self.keys, self.idf)
        return min(1.0, max(0.0, self.bias + float(values @ self.weight[places])))


def scaled(found: Keys, counts: Counts, keys: Keys, idf: Floats | Stored) -> tuple[Places, Floats]:
    """Give where the features of one text stand in `keys`, and their tf-idf."""
    places = np.searchsorted(keys, found)
    known = places < len(keys)
    known[known] = keys[places[known]] == found[known]
    places = places[known]
    values = (1 + np.log(counts[known])) * idf[places]
    for block in (0, 1):
        own = (keys[places] & U64(1)) == block
        length = np.linalg.norm(values[own])
        values[own] /= length if length else 1.0
    return places, values


def save(model: Linear, path: Path) -> None:
    """Write a model; the same model gives the same bytes."""
    from safetensors.numpy import save as as_bytes

    told = {
        "format": FORMAT,
        "name": model.name,
        "bias": model.bias,
        "fitted": model.fitted,
        "agreement": asdict(model.agreement),
    }
    arrays: dict[str, NDArray[Any]] = {
        "keys": model.keys,
        "idf": model.idf,
        "weight": model.weight,
    }
    with open_output(path) as output:
        output.write(as_bytes(arrays, metadata={"scorer": json.dumps(told)}))


def load(path: Path) -> Linear:
    """Read a model.

    Raises:
        NotReadyError: there is none.
        LlamaError: the file is another, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise NotReadyError(
            f"no scorer at {path}", hint=f"llama eval fit-scorer scored.jsonl -o {path}"
        )
    try:
        with safe_open(str(path), framework="numpy") as file:
            told = json.loads((file.metadata() or {}).get("scorer", "{}"))
            if told.get("format") != FORMAT:
                raise LlamaError(f"{path} is no scorer that llama eval fit-scorer has written")
            return Linear(
                name=told["name"],
                keys=file.get_tensor("keys"),
                idf=file.get_tensor("idf"),
                weight=file.get_tensor("weight"),
                bias=told["bias"],
                fitted=told["fitted"],
                agreement=Agreement(**told["agreement"]),
            )
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise LlamaError(f"{path} cannot be read as a scorer: {error}") from None

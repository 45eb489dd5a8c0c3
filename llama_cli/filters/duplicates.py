"""Paragraphs and documents seen before, over the whole stream (LLaMA, section 2.1).

    prepare      N processes   steps, then keys of the paragraphs and of the document
    first_copies one process   drops what an earlier document had, in input order

The first copy is kept (CCNet drops all copies). One table holds the keys of all sources, 10
to 14 bytes each, which is the memory that grows. A paragraph of a document that is then
dropped for what is left of it counts as seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from xxhash import xxh3_64_intdigest

from llama_cli.filters import Step, run_steps
from llama_cli.filters.recipes import Settings, recipe
from llama_cli.filters.seen import Keys, Mask, Seen
from llama_cli.records import Document, Rejected

DOCUMENTS = 256  # in a batch that asks the table; ours
CHARACTERS = 1 << 22  # in a batch; ours
GAP = re.compile(r"\n{3,}")


@dataclass(slots=True)
class Candidate:
    """A document that passed its steps, and the keys to look it up by."""

    document: Document
    key: int
    paragraphs: bytes | None  # one unsigned 64-bit integer a line; 0 is no paragraph


def prepare(
    document: Document, settings: Settings, further: Sequence[Step] = ()
) -> Candidate | Rejected:
    """Run the steps of the document's source and `further` ones; hash what they leave."""
    chosen = recipe(document.source, settings)
    result = run_steps(document, (*chosen.steps, *further))
    if isinstance(result, Rejected):
        return result
    text = result.text
    return Candidate(result, key_of(text), chosen.paragraphs(text) if chosen.paragraphs else None)


def key_of(text: str) -> int:
    """Hash a whole document."""
    return xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def first_copies(
    items: Iterable[Candidate | Rejected], settings: Settings, *, seen: Seen | None = None
) -> Iterator[Document | Rejected]:
    """Yield documents without the paragraphs seen before; reject exact duplicates of the rest."""
    seen = Seen() if seen is None else seen
    for batch in _batches(items):
        yield from _without_copies(_without_paragraphs(batch, settings, seen), seen)


def _batches(items: Iterable[Candidate | Rejected]) -> Iterator[list[Candidate | Rejected]]:
    batch: list[Candidate | Rejected] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item.document.text)
        if len(batch) == DOCUMENTS or size > CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _without_paragraphs(
    batch: list[Candidate | Rejected], settings: Settings, seen: Seen
) -> list[Candidate | Rejected]:
    keys = [item.paragraphs or b"" for item in batch if isinstance(item, Candidate)]
    new = _new_lines(np.frombuffer(b"".join(keys), np.uint64), seen)
    result: list[Candidate | Rejected] = []
    at = 0
    for item in batch:
        if isinstance(item, Candidate) and item.paragraphs:
            end = at + len(item.paragraphs) // 8
            keep = new[at:end]
            at = end
            result.append(item if keep.all() else _reduced(item.document, keep, settings))
        else:
            result.append(item)
    return result


def _new_lines(keys: Keys, seen: Seen) -> Mask:
    new: Mask = keys == 0  # what is no paragraph stays
    if len(keys):
        new[~new] = seen.add(keys[~new])
    return new


def _reduced(document: Document, keep: Mask, settings: Settings) -> Candidate | Rejected:
    """Take out paragraphs, and ask what is left to meet the steps again."""
    lines = document.text.split("\n")
    left = [line for line, kept in zip(lines, keep.tolist(), strict=True) if kept]
    text = GAP.sub("\n\n", "\n".join(left)).strip("\n")
    if not text or text.isspace():
        return Rejected(document, "paragraphs", "all_seen")
    reduced = replace(document, text=text)
    result = run_steps(reduced, recipe(document.source, settings).after)
    if isinstance(result, Rejected):
        return Rejected(document, "paragraphs", result.reason)
    return Candidate(reduced, key_of(text), None)


def _without_copies(batch: list[Candidate | Rejected], seen: Seen) -> Iterator[Document | Rejected]:
    keys = [item.key for item in batch if isinstance(item, Candidate)]
    new = iter(seen.add(np.array(keys, np.uint64)).tolist() if keys else ())
    for item in batch:
        if isinstance(item, Rejected):
            yield item
        elif next(new):
            yield item.document
        else:
            yield Rejected(item.document, "duplicates", "exact")

"""Where documents come from: one module for each data source of Table 1, and local files.

    find(inputs, limits) ─▶ Item, Item, …   one process, sorted, cheap: names, sizes, licences
    load(item, limits)   ─▶ Document        N processes: decoding, main text, reasons to drop

`find` holds one item at a time, so memory does not grow with the input; where it must
(licences inside an archive) the module says how. What `load` cannot use it returns as
Rejected, so that everything found is either a document or counted with a reason.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from llama_cli.errors import NotReadyError
from llama_cli.records import Document, Rejected

__all__ = ["BUILT", "PERMISSIVE", "SOURCES", "Item", "Limits", "Source", "named", "open_source"]

SOURCES = (  # Table 1, in its order, and what a user has at hand
    "common_crawl",
    "c4",
    "github",
    "wikipedia",
    "books",
    "arxiv",
    "stack_exchange",
    "files",
)
BUILT = ("common_crawl", "github", "files")

# "projects that are distributed under the Apache, BSD and MIT licenses" (section 2.1);
# BSD alone is what packages say that do not tell the number of clauses
PERMISSIVE = ("Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "MIT")


@dataclass(frozen=True, slots=True)
class Item:
    """Something that may become a document, found but not yet decoded.

    `content` is a path to read, or the bytes themselves where reading has to be in order
    (archives, crawls). `reason` is (step, reason) where there is no need to look inside.
    """

    id: str
    size: int  # bytes
    content: Path | bytes
    metadata: dict[str, Any] = field(default_factory=dict)
    reason: tuple[str, str] | None = None

    def read(self) -> bytes:
        """Read the bytes."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()

    def drop(self, source: str, step: str, reason: str, text: str = "", **facts: Any) -> Rejected:
        """Reject this item."""
        return Rejected(Document(self.id, text, source, {**self.metadata, **facts}), step, reason)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a source may take: no `licences` is any, no `max_item` (bytes) its own default."""

    licences: frozenset[str] | None = frozenset(PERMISSIVE)
    max_item: int | None = None


class Source(Protocol):
    """What a source module offers."""

    def find(self, inputs: Iterable[str], limits: Limits) -> Iterator[Item]:
        """Yield what may become a document, in an order that depends on the input alone."""

    def load(self, item: Item, limits: Limits) -> Document | Rejected:
        """Make a document of an item, or say why not."""


def open_source(name: str) -> Source:
    """Import the module of a source.

    Raises:
        NotReadyError: the source is one of Table 1's that is not built yet.
    """
    if name not in BUILT:
        raise NotReadyError(
            f"source '{name}' is not built yet; there are {', '.join(BUILT)}",
            hint="llama fetch files PATH",
        )
    return cast(Source, importlib.import_module(f"llama_cli.sources.{name}"))


def named(inputs: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pair each input with the name that its ids begin with: its last part, made unique.

    >>> list(named(["a/src", "b/src"]))
    [('a/src', 'src'), ('b/src', 'src~2')]
    """
    seen: dict[str, int] = {}
    for where in inputs:
        remote = "://" in where or where == "-"
        name = clean(
            where.rstrip("/").rpartition("/")[2] if remote else Path(where).absolute().name
        )
        seen[name] = count = seen.get(name, 0) + 1
        yield where, f"{name}~{count}" if count > 1 else name


def clean(name: str) -> str:
    """Make a file name, which may hold any bytes, fit for a record."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

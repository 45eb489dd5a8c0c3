"""Any local file or directory: text, Markdown, reStructuredText, LaTeX as it is, HTML.

A file named on the command line is taken whatever its name; in a directory, files with the
suffix of a text are. HTML is reduced to its main text.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from llama_cli.records import Document, Rejected
from llama_cli.sources import Item, Limits, clean, named
from llama_cli.sources.decode import NotText, decode
from llama_cli.stream.reader import read_bytes

MAX_ITEM = 1 << 26  # bytes; ours: the longest books have a few megabytes
HTML = (".htm", ".html", ".xhtml")
SUFFIXES = (
    *HTML,
    ".adoc",
    ".asciidoc",
    ".markdown",
    ".md",
    ".org",
    ".rst",
    ".tex",
    ".text",
    ".txt",
)
HTML_MARKS = (b"<!doctype html", b"<html")


def find(inputs: Iterable[str], limits: Limits) -> Iterator[Item]:
    """Yield files, those of a directory sorted by path."""
    largest = limits.max_item or MAX_ITEM
    for where, name in named(inputs):
        if where == "-" or "://" in where:
            data = b"".join(read_bytes(where))
            yield _item(name if where != "-" else "stdin", name, len(data), data, largest)
        elif Path(where).is_dir():
            yield from _folder(Path(where), name, "", largest)
        else:
            size = Path(where).stat().st_size
            yield _item(name, name, size, Path(where), largest)


def load(item: Item, limits: Limits) -> Document | Rejected:
    """Decode a text, or take the main text of a page."""
    if item.reason:
        return item.drop("files", *item.reason)
    try:
        data = item.read()
        if not _is_html(item.id, data):
            return Document(item.id, decode(data), "files", item.metadata)
    except OSError as error:
        return item.drop("files", "read", "unreadable", error=error.strerror)
    except NotText as error:
        return item.drop("files", "decode", str(error))
    from llama_cli.sources.html import main_text

    title, text = main_text(data)
    if not text:
        return item.drop("files", "html", "no_main_text", title=title)
    return Document(item.id, text, "files", {**item.metadata, "title": title})


def _folder(folder: Path, name: str, path: str, largest: int) -> Iterator[Item]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        facts = {"path": path, "error": error.strerror}
        yield Item(f"{name}/{path}", 0, b"", facts, ("read", "unreadable"))
        return
    for entry in entries:
        below = f"{path}/{clean(entry.name)}" if path else clean(entry.name)
        if entry.is_symlink():
            yield Item(f"{name}/{below}", 0, b"", {"path": below}, ("file", "link"))
        elif entry.is_dir():
            yield from _folder(Path(entry.path), name, below, largest)
        elif entry.is_file():
            size = entry.stat().st_size
            item = _item(f"{name}/{below}", below, size, Path(entry.path), largest)
            known = Path(entry.name).suffix.lower() in SUFFIXES
            yield item if known else Item(item.id, size, b"", item.metadata, ("file", "not_text"))


def _item(name: str, path: str, size: int, content: Path | bytes, largest: int) -> Item:
    reason = ("file", "too_large") if size > largest else None
    return Item(name, size, b"" if reason else content, {"path": path}, reason)


def _is_html(name: str, data: bytes) -> bool:
    return name.lower().endswith(HTML) or data[:512].lstrip().lower().startswith(HTML_MARKS)

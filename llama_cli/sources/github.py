"""Source trees: a directory, or a tar or zip archive of one (LLaMA, section 2.1, "Github").

One document a file, with its licence; only Apache, BSD and MIT are kept by default, as in
the paper. A file's licence is what its own header says, else that of the installed
package whose RECORD lists it, else the nearest licence file's above it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from llama_cli.records import Document, Rejected
from llama_cli.sources import Item, Limits, clean, licences, named
from llama_cli.sources.archives import members
from llama_cli.sources.decode import NotText, decode
from llama_cli.sources.languages import language_of
from llama_cli.sources.licence_files import installed, telling_files
from llama_cli.sources.ownership import Owner, Ownership, telling

MAX_ITEM = 1 << 20  # bytes; files of BigQuery's GitHub data, the paper's source, end there
MADE = {".git", ".hg", ".svn", "__pycache__"}  # folders of histories and caches: no sources


def find(inputs: Iterable[str], limits: Limits) -> Iterator[Item]:
    """Yield the files of source trees, sorted by path (of a tar: in its order)."""
    for where, name in named(inputs):
        root, largest = Path(where), limits.max_item or MAX_ITEM
        if "://" not in where and language_of(where) and root.is_file():
            yield _Tree(name, largest, installed(root)).file(root)
        elif root.is_dir():
            yield from _Tree(name, largest, installed(root)).folder(root, "")
        else:
            yield from _Tree(name, largest, {}).archive(where)


def load(item: Item, limits: Limits) -> Document | Rejected:
    """Decode a source file, if its licence allows."""
    if item.reason:
        return item.drop("github", *item.reason)
    try:
        text = decode(item.read())
    except OSError as error:
        return item.drop("github", "read", "unreadable", error=error.strerror)
    except NotText as error:
        return item.drop("github", "decode", str(error))
    licence = licences.own_licence(text) or item.metadata["licence"]
    document = Document(item.id, text, "github", {**item.metadata, "licence": licence})
    if limits.licences is None or licences.allowed(licence, limits.licences):
        return document
    reason = "unknown" if licence == licences.UNKNOWN else "not_allowed"
    return Rejected(document, "licence", reason)


class _Tree:
    """One input: its name, and the licences known so far."""

    def __init__(self, name: str, max_item: int, installed: Mapping[str, Owner]) -> None:
        self.name, self.max_item = name, max_item
        self.ownership = Ownership(installed)

    def file(self, path: Path) -> Item:
        """Take a single source file."""
        size = path.stat().st_size
        item = self.item(self.name, size, path, self.reason(self.name, size))
        return replace(item, id=self.name)

    def folder(self, folder: Path, path: str) -> Iterator[Item]:
        """Walk a directory; nothing is held but the way down from the root."""
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            reason, facts = ("read", "unreadable"), {"path": path, "error": error.strerror}
            yield Item(f"{self.name}/{path}", 0, b"", facts, reason)
            return
        self.ownership.enter(path, telling_files(entries))
        for entry in entries:
            below = f"{path}/{clean(entry.name)}" if path else clean(entry.name)
            if entry.is_symlink():
                yield self.item(below, 0, b"", ("file", "link"))
            elif entry.is_dir():
                if entry.name not in MADE:
                    yield from self.folder(Path(entry.path), below)
            elif entry.is_file():
                size = entry.stat().st_size
                yield self.item(below, size, Path(entry.path), self.reason(below, size))
        self.ownership.leave(path)

    def archive(self, where: str) -> Iterator[Item]:
        """Read an archive twice: for its licences, which may come last, and for its files."""
        folders: dict[str, dict[str, bytes]] = defaultdict(dict)
        for member in members(where):
            split = None if member.is_link else telling(member.path)
            if split:
                folders[split[0]][split[1]] = member.read()
        for folder in list(folders):
            self.ownership.enter(folder, folders.pop(folder))
        for member in members(where):
            if not MADE.isdisjoint(member.path.split("/")):
                continue
            reason = ("file", "link") if member.is_link else self.reason(member.path, member.size)
            content = b"" if reason else member.read()
            yield self.item(member.path, member.size, content, reason)

    def item(
        self, path: str, size: int, content: Path | bytes, reason: tuple[str, str] | None
    ) -> Item:
        """Describe a file."""
        licence, package = self.ownership.of(path)
        metadata = {"path": path, "licence": licence}
        if package:
            metadata["package"] = package
        if language := language_of(path):
            metadata["language"] = language
        return Item(f"{self.name}/{path}", size, content, metadata, reason)

    def reason(self, path: str, size: int) -> tuple[str, str] | None:
        """Say why a file need not be opened, if so."""
        if telling(path):
            return "file", "licence_text"
        if language_of(path) is None:
            return "file", "not_source"
        return ("file", "too_large") if size > self.max_item else None

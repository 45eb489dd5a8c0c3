"""Whose licence a file has: its package's, or that of the nearest licence file above it.

A directory of installed Python packages holds `NAME.dist-info` folders; the RECORD in each
lists the package's files, and METADATA says the licence. Elsewhere the nearest LICENSE or
COPYING file up the tree counts, and none beyond the root of the input does: only a RECORD,
which names the very file, is looked for above it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from email.parser import HeaderParser

from llama_cli.sources import licences

Owner = tuple[str, str | None]  # the licence, and the package if there is one

CLASSIFIERS = {  # trove classifiers whose last part is no name that `licences.spdx` knows
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Zero-Clause BSD (0BSD)": "0BSD",
}
NO_LICENCE = ("OSI Approved", "DFSG approved")  # classifiers that name none


@dataclass(slots=True)
class _Folder:
    licence: str | None = None
    owners: dict[str, Owner] = field(default_factory=dict)  # by path below the folder


class Ownership:
    """Licences of the folders from the root of an input down to where a walk is.

    A walk enters and leaves folders, and holds those above it; an archive, whose order is
    its own, enters them all first, and holds as much as it has licence files and RECORDs.
    """

    def __init__(self, installed: Mapping[str, Owner] | None = None) -> None:
        self._folders: dict[str, _Folder] = {}
        self._installed = installed or {}  # files of the input that a RECORD above it lists

    def enter(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Take in the files of a folder that tell licences; names are relative to it."""
        texts = [_text(data) for name, data in files.items() if "/" not in name]
        licence = licences.join(map(licences.recognise, texts)) if texts else None
        found = _Folder(licence, dict(owners(files)))
        if found.licence or found.owners:
            self._folders[folder] = found

    def leave(self, folder: str) -> None:
        """Forget a folder."""
        self._folders.pop(folder, None)

    def of(self, path: str) -> Owner:
        """Say whose licence a file has."""
        above = [(name, found) for name in _parents(path) if (found := self._folders.get(name))]
        for name, found in above:
            if owner := found.owners.get(path[len(name) + 1 :] if name else path):
                return owner
        if owner := self._installed.get(path):
            return owner
        nearest = (found.licence for _, found in above if found.licence)
        return next(nearest, licences.UNKNOWN), None


def telling(path: str) -> tuple[str, str] | None:
    """Split the path of a file that tells a licence into (folder, name below it).

    >>> telling("lib/x-1.dist-info/licenses/LICENSE"), telling("src/COPYING")
    (('lib', 'x-1.dist-info/licenses/LICENSE'), ('src', 'COPYING'))
    """
    parts = path.split("/")
    base = parts[-1]
    for depth, part in enumerate(parts[:-1]):
        if part.endswith(".dist-info"):
            if base in ("METADATA", "RECORD") or licences.is_licence_file(base):
                return "/".join(parts[:depth]), "/".join(parts[depth:])
            return None
    return ("/".join(parts[:-1]), base) if licences.is_licence_file(base) else None


def owners(files: Mapping[str, bytes]) -> Iterator[tuple[str, Owner]]:
    """Yield (path, owner) of the files that RECORDs list; `files` are as `enter` takes them."""
    for name, data in files.items():
        folder, _, base = name.rpartition("/")
        if base == "RECORD" and f"{folder}/METADATA" in files:
            metadata = HeaderParser().parsestr(_text(files[f"{folder}/METADATA"]))
            texts = [
                _text(text)
                for other, text in files.items()
                if other.startswith(f"{folder}/") and not other.endswith(("RECORD", "METADATA"))
            ]
            owner = (_package_licence(metadata, texts), f"{metadata['Name']} {metadata['Version']}")
            yield from ((row[0], owner) for row in csv.reader(_text(data).splitlines()) if row)


def _package_licence(metadata: Message, texts: list[str]) -> str:
    expression = metadata["License-Expression"]
    if expression and licences.is_expression(expression):
        return licences.spdx(expression) or str(expression)
    if classifiers := set(_classifiers(metadata)):
        return licences.join(classifiers)
    stated = str(metadata["License"] or "")
    named = licences.spdx(stated) or licences.recognise(stated)
    if named != licences.UNKNOWN:
        return named
    return licences.join(map(licences.recognise, texts))


def _classifiers(metadata: Message) -> Iterator[str]:
    for classifier in metadata.get_all("Classifier", []):
        topic, *_, name = str(classifier).split(" :: ")
        if topic == "License" and name not in NO_LICENCE:
            yield CLASSIFIERS.get(name) or licences.spdx(name) or licences.UNKNOWN


def _parents(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition("/")[0]
        yield path


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")

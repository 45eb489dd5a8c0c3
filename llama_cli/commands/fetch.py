"""`llama fetch`: a source and its inputs to documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llama_cli.commands._complete import paths
from llama_cli.commands._options import Command, stream_options
from llama_cli.config import nearest
from llama_cli.errors import NotReadyError, UsageError
from llama_cli.records import Document, Rejected
from llama_cli.sources import BUILT, PERMISSIVE, SOURCES, Item, Limits, open_source

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from llama_cli.stream.run import Run


class SourceName(click.ParamType[str]):
    """One of the sources, or an error with the nearest."""

    name = "source"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer the sources that are built."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(name) for name in BUILT if name.startswith(incomplete)]

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the name."""
        if value in SOURCES:
            return value
        near = nearest(value, SOURCES)
        raise UsageError(
            f"no source '{value}'; there are {', '.join(SOURCES)}",
            hint=f"llama fetch {near or 'files'} PATH",
        )


@click.command("fetch", cls=Command)
@click.argument("source", type=SourceName())
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", shell_complete=paths)
@stream_options(files=False, lines=False)
@click.option(
    "--licences",
    default=",".join(PERMISSIVE),
    show_default=True,
    metavar="LIST",
    help="github: keep files under these SPDX licences.",
)
@click.option("--any-licence", is_flag=True, help="github: keep files under any licence, or none.")
@click.option(
    "--max-item",
    type=click.IntRange(1),
    metavar="BYTES",
    help="Drop larger files or pages.  [default: github 1 MiB, common_crawl 8, files 64]",
)
@click.option(
    "--max-bytes",
    type=click.IntRange(0),
    metavar="BYTES",
    help="End before the text of all documents exceeds this.",
)
@click.option("-n", "--dry-run", is_flag=True, help="List what would be read, with its bytes.")
def command(
    run: Run,
    source: str,
    inputs: tuple[str, ...],
    licences: str,
    any_licence: bool,
    max_item: int | None,
    max_bytes: int | None,
    dry_run: bool,
) -> None:
    """Turn crawls, source trees and files into documents.

    SOURCE is github (a directory, tar or zip of source trees), common_crawl (a WET or WARC
    file) or files (text, Markdown and HTML). INPUT is a path, or a URL that fsspec knows.
    Documents come in the order of their paths; those that are not kept are counted by
    reason. Nothing is kept from a run that is stopped: the same command starts again.

    \b
      llama fetch github src/ vendor.tar.gz | llama filter -o code.jsonl.zst
      llama fetch common_crawl CC-MAIN.warc.wet.gz -j 0 --rejects dropped.jsonl.zst -o web.jsonl.zst
      llama fetch files books/ --max-bytes 200000000 | llama tokenize --fit -o my.model

    Memory does not grow with the input, but for an archive: its licences are held.
    """
    module = open_source(source)
    for where in inputs:
        if where != "-" and "://" not in where and not Path(where).exists():
            raise NotReadyError(f"{where}: no such file or directory")
    names = (name.strip() for name in licences.split(","))
    limits = Limits(None if any_licence else frozenset(names), max_item)
    items = module.find(inputs, limits)
    if dry_run:
        _list(run, items)
        return
    found = _named(run, run.spread(items, partial(module.load, limits=limits)))
    run.write(_bounded(run, found, max_bytes))


def _list(run: Run, items: Iterable[Item]) -> None:
    number = size = 0
    for item in items:
        if not item.reason:
            click.echo(f"{item.size}\t{item.id}")
            number, size = number + 1, size + item.size
    many = "item" if number == 1 else "items"
    run.say(f"{number:,} {many}, {size:,} bytes")


def _named(run: Run, items: Iterable[Document | Rejected]) -> Iterator[Document | Rejected]:
    """Name what could not be read; it is counted with the rest."""
    for item in items:
        if isinstance(item, Rejected) and item.reason == "unreadable":
            run.say(f"{item.document.id}: {item.document.metadata['error']}")
        yield item


def _bounded(
    run: Run, items: Iterable[Document | Rejected], limit: int | None
) -> Iterator[Document | Rejected]:
    """Pass documents on until the next would make their text exceed `limit` bytes."""
    size = 0
    for item in items:
        if isinstance(item, Document):
            more = len(item.text.encode("utf-8", "replace"))
            if limit is not None and size + more > limit:
                run.say(f"stopped at {size:,} bytes of text")
                break
            size += more
        yield item
    run.note(bytes=size)

"""Web pages from a Common Crawl file, WET or WARC, at a path or URL (section 2.1).

The paper starts from CCNet, which reads WET: text that Common Crawl extracted, whose first
line is the page's title. From a WARC the main text of each HTML page is taken instead.
Records are cut in one process, and turned into text in all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fastwarc import ArchiveIterator, WarcRecord, WarcRecordType

from llama_cli.errors import DataError
from llama_cli.records import Document, Rejected
from llama_cli.sources import Item, Limits
from llama_cli.sources.bytestream import ByteStream
from llama_cli.sources.html import main_text
from llama_cli.stream.compression import Corrupt
from llama_cli.stream.reader import shown

MAX_ITEM = 1 << 23  # bytes; ours: Common Crawl itself cuts pages at 1 MiB
HTML_TYPES = ("text/html", "application/xhtml+xml")
SLACK = 256  # bytes by which a header may differ from how it is written anew; ours


def find(inputs: Iterable[str], limits: Limits) -> Iterator[Item]:
    """Yield the pages of crawl files: `conversion` records, and responses of web servers.

    Raises:
        DataError: the file is no WARC or WET, or is damaged, or ends early.
    """
    largest = limits.max_item or MAX_ITEM
    for where in inputs:
        for record, block in _records(where, largest):
            if record.record_type == WarcRecordType.conversion:
                yield _item(record, block, "wet", largest)
            elif record.record_type == WarcRecordType.response:
                yield _item(record, block, "http", largest)


def load(item: Item, limits: Limits) -> Document | Rejected:
    """Make a document of a WET text or of an HTTP response."""
    facts = dict(item.metadata)
    kind = facts.pop("kind")
    item = Item(item.id, item.size, item.content, facts, item.reason)
    if item.reason:
        return item.drop("common_crawl", *item.reason)
    return _from_wet(item) if kind == "wet" else _from_http(item)


def _from_wet(item: Item) -> Document:
    title, _, text = item.read().decode("utf-8", "replace").strip().partition("\n")
    return Document(item.id, text, "common_crawl", {**item.metadata, "title": title.strip()})


def _from_http(item: Item) -> Document | Rejected:
    record = WarcRecord()
    record.set_bytes_content(item.read())
    record.is_http = True
    record.parse_http("all")
    status = record.http_headers.status_code
    if status != 200:
        return item.drop("common_crawl", "http", "status", status=status)
    kind = (record.http_content_type or "").lower()
    if kind not in HTML_TYPES:
        return item.drop("common_crawl", "http", "not_html", type=kind)
    title, text = main_text(record.reader.read(), record.http_charset)
    if not text:
        return item.drop("common_crawl", "html", "no_main_text", title=title)
    return Document(item.id, text, "common_crawl", {**item.metadata, "title": title})


def _records(where: str, largest: int) -> Iterator[tuple[WarcRecord, bytes]]:
    """Yield records with their blocks; a block over `largest` bytes is passed over."""
    stream, number, block = ByteStream(where), 1, b""
    line = stream.peek().partition(b"\n")[0]
    try:
        if not line.startswith(b"WARC/"):
            raise Corrupt("not a WARC or WET file")
        is_lf = not line.endswith(b"\r")  # against the standard, but there are such files
        records = ArchiveIterator(
            stream, parse_http=False, quirks_mode=is_lf, stream_detect=False, fsspec_args=False
        )
        end = 0
        for record in records:
            if is_lf:
                end = _checked_end(record, end)
            block = b"" if record.content_length > largest else record.reader.read()
            if len(block) + record.reader.consume() < record.content_length:
                raise Corrupt("crawl file ends early (truncated?)")
            yield record, block
            number += 1
        stream.drain()
        if not _is_whole(stream.tail, block):
            raise Corrupt("crawl file ends early (truncated?)")
    except (OSError, Corrupt) as error:
        raise DataError(shown(where), number, f"record: {error}") from None


def _checked_end(record: WarcRecord, end: int) -> int:
    """Refuse a gap: FastWARC's lenient mode passes over what does not begin as a record."""
    if end and record.stream_pos - end > SLACK:
        raise Corrupt("bytes between two records: is Content-Length true?")
    header = sum(len(name) + len(value) + 3 for name, value in record.headers.items())
    return record.stream_pos + header + record.content_length


def _is_whole(tail: bytes, block: bytes) -> bool:
    # FastWARC takes a cut inside a record's header for an end
    return tail.endswith((b"\n\r\n", b"\n\n")) or (
        bool(block) and tail.endswith(block[-64:])  # no blank lines after the last record
    )


def _item(record: WarcRecord, block: bytes, kind: str, largest: int) -> Item:
    headers = record.headers
    url = (headers.get("WARC-Target-URI") or "").strip("<>")  # Wget writes <URL>
    date = headers.get("WARC-Date") or ""
    name = (headers.get("WARC-Record-ID") or f"{url}@{date}").strip("<>").removeprefix("urn:uuid:")
    reason = ("file", "too_large") if record.content_length > largest else None
    metadata = {"url": url, "date": date, "kind": kind}
    return Item(name, record.content_length, block, metadata, reason)

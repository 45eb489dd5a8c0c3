"""Web pages from a Common Crawl file, WET or WARC, at a path or URL (section 2.1).

The paper starts from CCNet, which reads WET: text that Common Crawl extracted, whose first
line is the page's title. From a WARC the main text of each HTML page is taken instead.
Records are cut in one process, and turned into text in all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fastwarc import WarcRecord

from llama_cli.records import Document, Rejected
from llama_cli.sources import Item, Limits
from llama_cli.sources.html import main_text
from llama_cli.sources.warc import Record, read_records

MAX_ITEM = 1 << 23  # bytes; ours: Common Crawl itself cuts pages at 1 MiB
HTML_TYPES = ("text/html", "application/xhtml+xml")
KINDS = {"conversion": "wet", "response": "http"}  # requests, metadata… are no pages


def find(inputs: Iterable[str], limits: Limits) -> Iterator[Item]:
    """Yield the pages of crawl files: `conversion` records, and responses of web servers.

    Raises:
        DataError: the file is no WARC or WET, or is damaged, or ends early.
    """
    largest = limits.max_item or MAX_ITEM
    for where in inputs:
        for record in read_records(where, largest):
            if kind := KINDS.get(record.headers.get("warc-type", "").lower()):
                yield _item(record, kind, largest)


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
    try:
        record.parse_http("all")
        body = record.reader.read()
    except OSError as error:  # a header without end, chunks or compression that are damaged
        return item.drop("common_crawl", "http", "damaged", error=str(error))
    status = record.http_headers.status_code
    if status != 200:
        return item.drop("common_crawl", "http", "status", status=status)
    kind = (record.http_content_type or "").lower()
    if kind not in HTML_TYPES:
        return item.drop("common_crawl", "http", "not_html", type=kind)
    title, text = main_text(body, record.http_charset)
    if not text:
        return item.drop("common_crawl", "html", "no_main_text", title=title)
    return Document(item.id, text, "common_crawl", {**item.metadata, "title": title})


def _item(record: Record, kind: str, largest: int) -> Item:
    headers = record.headers
    url = headers.get("warc-target-uri", "").strip("<>")  # Wget writes <URL>
    date = headers.get("warc-date", "")
    name = headers.get("warc-record-id", f"{url}@{date}").strip("<>").removeprefix("urn:uuid:")
    reason = ("file", "too_large") if record.size > largest else None
    metadata = {"url": url, "date": date, "kind": kind}
    return Item(name, record.size, record.block, metadata, reason)

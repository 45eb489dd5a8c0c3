"""WET and WARC files made here byte by byte, and real ones where they are."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from llama_cli.errors import DataError
from llama_cli.records import Document, Rejected
from llama_cli.sources import Limits
from llama_cli.sources.common_crawl import find, load
from tests.shell import SHARED
from tests.unit.test_sources_files import PAGE

LIMITS = Limits()

REAL = SHARED / "data" / "sources" / "commoncrawl" / "real_warc"
needs_samples = pytest.mark.skipif(not REAL.exists(), reason="the real samples are not here")


def record(kind: str, block: bytes, number: int = 1, end: str = "\r\n") -> bytes:
    headers = (
        "WARC/1.0",
        f"WARC-Type: {kind}",
        f"warc-target-uri: http://example.org/{number}",
        "WARC-DATE: 2020-01-02T03:04:05Z",
        f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012}>",
        f"content-length: {len(block)}",
        "",
        "",
    )
    return end.join(headers).encode() + block + end.encode() * 2


def http(body: bytes = PAGE.encode(), status: str = "200 OK", kind: str = "text/html") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n\r\n".encode() + body


INFO = record("warcinfo", b"software: ours\r\n")
WET = INFO + record("conversion", "A title\nFirst line.\n2. Zeile: ä\n".encode(), 1)


def fetch(path: Path, data: bytes, limits: Limits = LIMITS) -> list[Document | Rejected]:
    path.write_bytes(data)
    return [load(item, limits) for item in find([str(path)], limits)]


def test_a_wet_text_is_a_document_and_its_first_line_the_title(tmp_path: Path) -> None:
    assert fetch(tmp_path / "a", WET) == [
        Document(
            "00000000-0000-0000-0000-000000000001",
            "First line.\n2. Zeile: ä",
            "common_crawl",
            {
                "url": "http://example.org/1",
                "date": "2020-01-02T03:04:05Z",
                "title": "A title",
            },
        )
    ]


def test_of_a_warc_page_the_main_text_is_taken(tmp_path: Path) -> None:
    data = INFO + record("request", b"GET / HTTP/1.1\r\n\r\n") + record("response", http())
    (page,) = fetch(tmp_path / "a", data)
    assert isinstance(page, Document)
    assert page.text.endswith("Nobody read what he wrote.")
    assert page.metadata["title"] == "A lighthouse"


def test_pages_that_are_none_are_counted_by_reason(tmp_path: Path) -> None:
    blocks = [
        http(status="404 Not Found"),
        http(kind="image/png"),
        http(b"<html></html>"),
        b"no HTTP at all",
    ]
    items = fetch(tmp_path / "a", b"".join(record("response", block) for block in blocks))
    assert [f"{item.step}.{item.reason}" for item in items if isinstance(item, Rejected)] == [
        "http.status",
        "http.not_html",
        "html.no_main_text",
        "http.status",
    ]


def test_a_page_is_decoded_as_its_server_says(tmp_path: Path) -> None:
    body = PAGE.replace("keeper", "Wärter").encode("latin-1")
    data = record("response", http(body, kind="TEXT/HTML; charset=ISO-8859-1"))
    (page,) = fetch(tmp_path / "a", data)
    assert isinstance(page, Document)
    assert "The Wärter wrote" in page.text


def test_a_page_that_came_compressed_and_in_chunks_is_decoded(tmp_path: Path) -> None:
    packed = gzip.compress(PAGE.encode())
    block = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
        + f"{len(packed):x}\r\n".encode()
        + packed
        + b"\r\n0\r\n\r\n"
    )
    (page,) = fetch(tmp_path / "a", record("response", block))
    assert isinstance(page, Document)
    assert page.text.endswith("Nobody read what he wrote.")


@pytest.mark.parametrize("charset", ["no-such-charset", "hex", "", '"'])
def test_an_encoding_that_there_is_not_is_ignored(tmp_path: Path, charset: str) -> None:
    body = PAGE.replace("keeper", "Wärter").encode()
    (page,) = fetch(
        tmp_path / "a", record("response", http(body, kind=f"text/html; charset={charset}"))
    )
    assert isinstance(page, Document)
    assert "The Wärter wrote" in page.text


@pytest.mark.parametrize(
    "header",
    [
        "Content-Encoding: gzip",
        "Content-Encoding: br",
        "Transfer-Encoding: chunked",
        "X: " + "y" * 99_999,
    ],
)
def test_a_damaged_response_is_rejected_and_the_rest_goes_on(tmp_path: Path, header: str) -> None:
    bad = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{header}\r\n\r\n{PAGE}".encode()
    first, second = fetch(tmp_path / "a", record("response", bad) + record("response", http(), 2))
    assert isinstance(first, Rejected)
    assert (first.step, first.reason) == ("http", "damaged")
    assert isinstance(second, Document)


def test_a_record_over_the_limit_is_passed_over(tmp_path: Path) -> None:
    data = record("conversion", b"T\n1234") + record("conversion", b"T\n123", 2)
    large, small = fetch(tmp_path / "a", data, Limits(max_item=5))
    assert isinstance(large, Rejected)
    assert large.reason == "too_large"
    assert isinstance(small, Document)
    assert small.text == "123"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_file_that_ends_early_is_an_error_wherever_it_was_cut(tmp_path: Path, pack) -> None:
    whole = pack(WET + record("conversion", b"T\ntext", 2))
    for cut in range(1, len(whole), 3):
        if whole[:-cut].rstrip(b"\r\n").endswith((b"ours", "ä".encode(), b"text")):
            continue  # among the blank lines after a record
        with pytest.raises(DataError, match=r"/a:\d+: record: "):
            fetch(tmp_path / "a", whole[:-cut])


def test_blank_lines_after_the_last_record_may_be_missing(tmp_path: Path) -> None:
    assert len(fetch(tmp_path / "a", WET.rstrip(b"\r\n") + b"\n")) == 1


def test_each_record_may_be_compressed_on_its_own(tmp_path: Path) -> None:
    parts = [INFO, record("conversion", b"T\none"), record("conversion", b"T\ntwo", 2)]
    items = fetch(tmp_path / "a", b"".join(map(gzip.compress, parts)))
    assert [item.text for item in items if isinstance(item, Document)] == ["one", "two"]


def test_lines_may_end_as_on_unix(tmp_path: Path) -> None:
    data = b"".join(record("conversion", b"T\ntext %d" % n, n, end="\n") for n in range(3))
    items = fetch(tmp_path / "a", data)
    assert [item.text for item in items if isinstance(item, Document)] == [
        "text 0",
        "text 1",
        "text 2",
    ]


def test_a_false_content_length_is_an_error_and_loses_no_record(tmp_path: Path) -> None:
    for end in ("\n", "\r\n"):
        first = record("conversion", b"T\n" + b"x" * 900, end=end)
        data = first.replace(b"content-length: 902", b"content-length: 102") + record(
            "conversion", b"T\ntext", 2, end=end
        )
        with pytest.raises(DataError, match="/a:2: record: "):
            fetch(tmp_path / "a", data)


@pytest.mark.parametrize("data", [b"", b"<html></html>", b"filedesc://a.arc 1 2 3\n"])
def test_what_is_no_crawl_file_is_an_error(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match="/a:1: record: not a WARC or WET file"):
        fetch(tmp_path / "a", data)


@pytest.mark.parametrize("length", [b"", b"content-length: many\r\n"])
def test_a_record_without_a_length_is_an_error(tmp_path: Path, length: bytes) -> None:
    data = record("conversion", b"T\ntext").replace(b"content-length: 6\r\n", length)
    with pytest.raises(DataError, match="/a:1: record: no Content-Length"):
        fetch(tmp_path / "a", data)


def test_a_folded_header_is_one_value(tmp_path: Path) -> None:
    data = record("conversion", b"T\ntext").replace(b"example.org", b"example.org/\r\n  a")
    (document,) = fetch(tmp_path / "a", data)
    assert isinstance(document, Document)
    assert document.metadata["url"] == "http://example.org/ a/1"


def test_a_record_without_an_id_is_named_by_its_url_and_date(tmp_path: Path) -> None:
    lines = record("conversion", b"T\ntext").split(b"\r\n")
    data = b"\r\n".join(line for line in lines if not line.startswith(b"WARC-Record"))
    (document,) = fetch(tmp_path / "a", data)
    assert isinstance(document, Document)
    assert document.id == "http://example.org/1@2020-01-02T03:04:05Z"


@needs_samples
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "documents", "rejected"),
    [
        ("cc-whirlwind.warc.gz", 1, 0),
        ("cc-whirlwind.warc.wet.gz", 1, 0),
        ("dolma-sample-0000.warc.gz", 22, 0),
        ("aut-example.warc.gz", 94, 205),  # WARC/0.17
        ("ukwa-govuk-1.warc.gz", 32, 33),
    ],
)
def test_real_crawls_lose_no_page_without_a_word(name: str, documents: int, rejected: int) -> None:
    items = [load(item, Limits()) for item in find([str(REAL / name)], Limits())]
    assert len(items) == documents + rejected
    empty = Counter(getattr(item, "reason", "") for item in items)["no_main_text"]
    assert sum(isinstance(item, Document) for item in items) == documents - empty


@needs_samples
@pytest.mark.data
def test_a_real_clipped_crawl_is_an_error() -> None:
    with pytest.raises(DataError, match="ends early"):
        list(find([str(REAL / "resiliparse-clipped.warc.gz")], Limits()))


def four_grams(text: str) -> Counter[tuple[str, ...]]:
    words = re.findall(r"\w+", text)
    return Counter(tuple(words[at : at + 4]) for at in range(max(1, len(words) - 3)))


@needs_samples
@pytest.mark.data
def test_the_main_text_of_real_pages_is_near_what_people_marked() -> None:
    """Macro F1 of 4-grams over 91 pages, as scrapinghub's benchmark counts; .926 published."""
    labels = json.loads((REAL.parent / "labels" / "scrapinghub-ground-truth.json").read_text())
    gold = {row["url"]: four_grams(row["articleBody"]) for row in labels.values()}
    precision = recall = 0.0
    items = list(find([str(REAL.parent / "scrapinghub-article-pages.warc.gz")], LIMITS))
    for item in items:
        page, wanted = load(item, LIMITS), gold[item.metadata["url"]]
        found = four_grams(page.text if isinstance(page, Document) else "")
        both = (found & wanted).total()
        precision += both / found.total() / len(items)
        recall += both / wanted.total() / len(items)
    assert 2 * precision * recall / (precision + recall) > 0.926

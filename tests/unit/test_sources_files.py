"""Texts and pages at hand."""

from pathlib import Path

import pytest

from llama_cli.records import Document, Rejected
from llama_cli.sources import Limits, files

LIMITS = Limits()

PAGE = """<!DOCTYPE html><html><head><title>A  lighthouse</title></head><body>
<nav><a href="/">Home</a> <a href="/about">About</a></nav>
<article><h1>A lighthouse</h1><p>The keeper wrote down the weather every evening, and he lit
the lamp before it was dark.</p><p>Nobody read what he wrote.</p></article>
<footer>Privacy policy</footer><script>var x = 1;</script></body></html>"""


def fetch(*inputs: Path | str, limits: Limits = LIMITS) -> list[Document | Rejected]:
    return [files.load(item, limits) for item in files.find(map(str, inputs), limits)]


def test_texts_of_a_directory_come_sorted_by_path(tmp_path: Path) -> None:
    root = tmp_path / "notes"
    (root / "b").mkdir(parents=True)
    for name in ("c.txt", "b/z.md", "b/a.rst"):
        (root / name).write_text(f"text of {name}\n")
    assert fetch(root) == [
        Document(f"notes/{name}", f"text of {name}\n", "files", {"path": name})
        for name in ("b/a.rst", "b/z.md", "c.txt")
    ]


def test_other_files_of_a_directory_are_rejected_by_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n")
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.jsonl")
    items = fetch(tmp_path)
    assert [(item.step, item.reason) for item in items if isinstance(item, Rejected)] == [
        ("file", "not_text"),
        ("file", "link"),
    ]


def test_a_file_that_is_named_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "notes.log").write_text("one\n")
    assert fetch(tmp_path / "notes.log") == [
        Document("notes.log", "one\n", "files", {"path": "notes.log"})
    ]


@pytest.mark.parametrize("name", ["page.html", "page.XHTML", "page"])
def test_of_html_the_main_text_is_taken(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(PAGE)
    (page,) = fetch(tmp_path / name)
    assert isinstance(page, Document)
    assert page.metadata["title"] == "A lighthouse"
    assert page.text.endswith("before it was dark.\n\nNobody read what he wrote.")
    assert "About" not in page.text
    assert "Privacy" not in page.text


def test_html_is_decoded_as_it_declares(tmp_path: Path) -> None:
    page = PAGE.replace("<head>", '<head><meta charset="iso-8859-1">').replace("keeper", "Wärter")
    (tmp_path / "page.html").write_bytes(page.encode("latin-1"))
    (document,) = fetch(tmp_path / "page.html")
    assert isinstance(document, Document)
    assert "The Wärter wrote" in document.text


def test_what_is_no_text_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\0\1")
    (tmp_path / "b.txt").write_bytes("Größe".encode("latin-1"))
    (tmp_path / "c.html").write_text("<html><body></body></html>")
    assert [item.reason for item in fetch(tmp_path) if isinstance(item, Rejected)] == [
        "binary",
        "not_utf8",
        "no_main_text",
    ]


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("12345")
    (item,) = fetch(tmp_path, limits=Limits(max_item=4))
    assert isinstance(item, Rejected)
    assert (item.reason, item.document.text) == ("too_large", "")


def test_a_url_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    (document,) = fetch(f"file://{tmp_path}/a.txt")
    assert document == Document("a.txt", "one\n", "files", {"path": "a.txt"})


def test_what_vanishes_or_may_not_be_read_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    (item,) = files.find([str(tmp_path)], Limits())
    (tmp_path / "a.txt").unlink()
    gone = files.load(item, Limits())

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "scandir", refuse)
    (closed,) = fetch(tmp_path)
    for result, error in ((gone, "No such file or directory"), (closed, "Permission denied")):
        assert isinstance(result, Rejected)
        assert (result.reason, result.document.metadata["error"]) == ("unreadable", error)

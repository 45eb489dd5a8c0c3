"""Source trees, as directories, tar and zip archives made here."""

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_cli.errors import DataError, UsageError
from llama_cli.records import Document, Rejected
from llama_cli.sources import Limits
from llama_cli.sources.github import find, load
from tests.unit.test_sources_licences import GPL, MIT

LIMITS = Limits()

FILES = {
    "LICENSE": MIT,
    "README.md": "# Title\n",
    "Makefile": "all:\n",
    "src/b.py": "b = 1\n",
    "src/a.py": "a = 1\n",
    "src/logo.png": "\x89PNG",
    "vendor/COPYING": GPL,
    "vendor/c.c": "int c;\n",
    "vendor/d.c": "/* SPDX-License-Identifier: MIT */\nint d;\n",
    ".git/config.py": "no source\n",
}
KEPT = ["Makefile", "README.md", "src/a.py", "src/b.py", "vendor/d.c"]


def fetch(*inputs: Path, limits: Limits = LIMITS) -> list[Document | Rejected]:
    return [load(item, limits) for item in find(map(str, inputs), limits)]


def kept(items: list[Document | Rejected]) -> list[str]:
    return [item.metadata["path"] for item in items if isinstance(item, Document)]


def reasons(items: list[Document | Rejected]) -> dict[str, str]:
    return {
        item.document.metadata["path"]: f"{item.step}.{item.reason}"
        for item in items
        if isinstance(item, Rejected)
    }


def write_tree(root: Path) -> Path:
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="latin-1" if "png" in name else "utf-8")
    return root


def tar_bytes(mode: str = "w:gz", files: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, text in (files or dict(sorted(FILES.items(), reverse=True))).items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("src/link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return buffer.getvalue()


def zip_bytes() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("src")
        for name, text in FILES.items():
            archive.writestr(name, text)
        link = zipfile.ZipInfo("src/link.py")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    return buffer.getvalue()


def test_a_tree_gives_one_document_a_file_sorted_with_its_licence(tmp_path: Path) -> None:
    items = fetch(write_tree(tmp_path / "demo"))
    assert kept(items) == KEPT
    assert items[KEPT.index("README.md") + 1] == Document(
        "demo/README.md",
        "# Title\n",
        "github",
        {"path": "README.md", "licence": "MIT", "language": "Markdown"},
    )


def test_what_is_not_kept_has_a_reason_and_histories_are_not_looked_at(tmp_path: Path) -> None:
    assert reasons(fetch(write_tree(tmp_path / "demo"))) == {
        "LICENSE": "file.licence_text",
        "src/logo.png": "file.not_source",
        "vendor/COPYING": "file.licence_text",
        "vendor/c.c": "licence.not_allowed",
    }


@pytest.mark.parametrize("make", [tar_bytes, zip_bytes])
def test_an_archive_gives_what_its_tree_gives(tmp_path: Path, make: Callable[[], bytes]) -> None:
    (tmp_path / "demo").write_bytes(make())
    items = fetch(tmp_path / "demo")
    assert sorted(kept(items)) == KEPT
    tree = {
        item.id: item
        for item in fetch(write_tree(tmp_path / "t" / "demo"))
        if isinstance(item, Document)
    }
    assert {item.id: item for item in items if isinstance(item, Document)} == tree
    assert reasons(items)["src/link.py"] == "file.link"


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_is_recognised_under_any_compression(tmp_path: Path, mode: str) -> None:
    (tmp_path / "t").write_bytes(tar_bytes(mode))
    assert sorted(kept(fetch(tmp_path / "t"))) == KEPT


def test_a_wheel_has_the_licence_of_its_metadata(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "demo.whl", "w") as wheel:
        wheel.writestr("demo.py", "x = 1\n")
        wheel.writestr("demo-1.dist-info/RECORD", "demo.py,,\n")
        wheel.writestr(
            "demo-1.dist-info/METADATA", "Name: demo\nVersion: 1\nLicense-Expression: MIT\n"
        )
    (document,) = (item for item in fetch(tmp_path / "demo.whl") if isinstance(item, Document))
    assert document.metadata == {
        "path": "demo.py",
        "licence": "MIT",
        "package": "demo 1",
        "language": "Python",
    }


@pytest.mark.parametrize("make", [tar_bytes, zip_bytes])
def test_an_archive_that_ends_early_is_an_error_wherever_it_was_cut(
    tmp_path: Path, make: Callable[[], bytes]
) -> None:
    whole = make()
    for cut in (1, 20, 300, len(whole) // 2, len(whole) - 4):
        (tmp_path / "a").write_bytes(whole[: len(whole) - cut])
        with pytest.raises(DataError, match="/a:"):
            fetch(tmp_path / "a")


def test_a_plain_tar_cut_between_members_is_an_error(tmp_path: Path) -> None:
    whole = tar_bytes("w", {"a.py": "a = 1\n", "b.py": "b = 1\n"})
    (tmp_path / "a").write_bytes(whole[:1024])  # the first header and its block
    with pytest.raises(DataError, match=r"ends early \(truncated\?\)"):
        fetch(tmp_path / "a")


def test_what_is_no_archive_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("just text\n" * 200)
    with pytest.raises(DataError, match="/a:1: no archive"):
        fetch(tmp_path / "a")


def test_stdin_cannot_be_read_twice() -> None:
    with pytest.raises(UsageError):
        list(find(["-"], Limits()))


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text(MIT)
    (tmp_path / "a.py").write_text("1234\n")
    (tmp_path / "b.py").write_text("12345\n")
    items = fetch(tmp_path, limits=Limits(max_item=5))
    assert kept(items) == ["a.py"]
    assert reasons(items)["b.py"] == "file.too_large"


def test_any_licence_keeps_what_has_none(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("a = 1\n")
    assert reasons(fetch(tmp_path)) == {"a.py": "licence.unknown"}
    (document,) = fetch(tmp_path, limits=Limits(licences=None))
    assert isinstance(document, Document)
    assert document.metadata["licence"] == "unknown"


def test_a_licence_above_the_input_does_not_count(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "demo")
    assert kept(fetch(tree / "src")) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "demo")
    (tree / "src" / "loop").symlink_to(tree)
    (tree / "src" / "out.py").symlink_to("/etc/passwd")
    items = fetch(tree)
    assert kept(items) == KEPT
    assert reasons(items)["src/loop"] == reasons(items)["src/out.py"] == "file.link"


def test_binary_and_undecodable_files_are_rejected(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "demo")
    (tree / "src" / "a.py").write_bytes(b"a\0")
    (tree / "src" / "b.py").write_bytes("ä = 1".encode("latin-1"))
    found = reasons(fetch(tree))
    assert (found["src/a.py"], found["src/b.py"]) == ("decode.binary", "decode.not_utf8")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_or_folder_that_may_not_be_read_is_counted(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "demo")
    (tree / "src" / "a.py").chmod(0)
    (tree / "vendor").chmod(0)
    items = fetch(tree)
    (tree / "vendor").chmod(0o755)
    assert reasons(items)["src/a.py"] == reasons(items)["vendor"] == "read.unreadable"


def test_a_file_that_vanishes_between_find_and_load_is_counted(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "demo")
    items = list(find([str(tree)], Limits()))
    (tree / "src" / "a.py").unlink()
    result = next(load(item, Limits()) for item in items if item.id.endswith("a.py"))
    assert isinstance(result, Rejected)
    assert (result.step, result.reason) == ("read", "unreadable")
    assert result.document.metadata["error"] == "No such file or directory"


def test_a_folder_that_vanishes_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = write_tree(tmp_path / "demo")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "vendor":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    items = fetch(tree)
    assert reasons(items)["vendor"] == "read.unreadable"
    assert "src/a.py" in kept(items)


def test_a_name_of_any_bytes_becomes_an_id(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text(MIT)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.py")).write_text("x = 1\n")
    (document,) = (item for item in fetch(tmp_path) if isinstance(item, Document))
    assert document.id == f"{tmp_path.name}/\ufffd.py"
    assert b"\xef\xbf\xbd.py" in document.to_json()


def test_a_licence_that_is_a_link_or_cannot_be_read_licenses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.write_text(MIT)
    tree = tmp_path / "demo"
    tree.mkdir()
    (tree / "a.py").write_text("a = 1\n")
    (tree / "LICENSE").symlink_to(outside)
    assert reasons(fetch(tree))["a.py"] == "licence.unknown"

    (tree / "LICENSE").unlink()
    (tree / "LICENSE").write_text(MIT)
    assert kept(fetch(tree)) == ["a.py"]
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "LICENSE":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert reasons(fetch(tree))["a.py"] == "licence.unknown"


def test_an_installed_package_is_fetched_by_its_own_directory(tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    for name, text in {
        "demo/core/a.py": "a = 1\n",
        "demo/stray.py": "b = 1\n",
        "single.py": "c = 1\n",
        "other/a.py": "d = 1\n",
        "demo-1.dist-info/METADATA": "Name: demo\nVersion: 1\nLicense-Expression: MIT\n",
        "demo-1.dist-info/RECORD": "demo/core/a.py,,\nsingle.py,,\n",
        "other-1.dist-info/METADATA": "Name: other\nVersion: 1\nLicense-Expression: ISC\n",
        "other-1.dist-info/RECORD": "other/a.py,,\n",
        "empty-1.dist-info/METADATA": "Name: empty\n",
    }.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    items = fetch(site / "demo", site / "demo" / "core", site / "single.py", site / "other")
    assert [item.id for item in items if isinstance(item, Document)] == [
        "demo/core/a.py",
        "core/a.py",
        "single.py",
    ]
    assert all(item.metadata["package"] == "demo 1" for item in items if isinstance(item, Document))
    assert reasons(items) == {"stray.py": "licence.unknown", "a.py": "licence.not_allowed"}


def test_a_single_file_has_the_licence_it_names(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("// SPDX-License-Identifier: MIT\nint a;\n")
    (document,) = fetch(tmp_path / "a.c")
    assert isinstance(document, Document)
    assert (document.id, document.metadata["licence"]) == ("a.c", "MIT")

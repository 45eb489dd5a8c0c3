"""`llama fetch` as a user runs it."""

import gzip
import json
import os
from pathlib import Path

import pytest

from tests.shell import sh
from tests.unit.test_sources_common_crawl import WET, http, record
from tests.unit.test_sources_github import tar_bytes, write_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_tree(tmp_path / "demo")
    return tmp_path


def ids(stdout: str) -> list[str]:
    return [json.loads(line)["id"] for line in stdout.splitlines()]


def test_a_source_tree_becomes_documents_and_the_rest_is_counted(tree: Path) -> None:
    done = sh("llama fetch github demo --rejects dropped.jsonl --report report.json", tree)
    assert done.returncode == 0
    assert ids(done.stdout) == [
        f"demo/{name}" for name in ("Makefile", "README.md", "src/a.py", "src/b.py", "vendor/d.c")
    ]
    assert "llama fetch: rejected 2 file.licence_text\n" in done.stderr
    result = json.loads((tree / "report.json").read_text())["result"]
    assert result["rejected"] == {
        "file.licence_text": 2,
        "file.not_source": 1,
        "licence.not_allowed": 1,
    }
    assert result["bytes"] == 5 + 8 + 6 + 6 + 42
    assert len((tree / "dropped.jsonl").read_text().splitlines()) == 4


def test_the_output_is_the_same_for_any_number_of_processes(tree: Path) -> None:
    for number in range(100):
        (tree / "demo" / "src" / f"{number}.py").write_text(f"number = {number}\n")
    done = sh(
        "llama fetch github demo > 1 && llama fetch github demo -j 3 > 3 && cmp 1 3 && wc -l < 3",
        tree,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "105"


def test_licences_are_an_option(tree: Path) -> None:
    done = sh("llama fetch github demo --licences GPL-3.0-only", tree)
    assert ids(done.stdout) == ["demo/vendor/c.c"]
    done = sh("llama fetch github demo --any-licence | wc -l", tree)
    assert done.stdout.strip() == "6"


def test_a_corpus_is_bounded_to_whole_documents(tree: Path) -> None:
    for limit, number in ((67, 5), (66, 4), (5, 1), (4, 0)):
        done = sh(f"llama fetch github demo --max-bytes {limit}", tree)
        assert done.returncode == 0
        assert len(ids(done.stdout)) == number
        assert ("stopped at" in done.stderr) is (number < 5)
    done = sh("llama fetch github demo -j 2 --max-bytes 66 --report r.json", tree)
    assert json.loads((tree / "r.json").read_text())["result"]["bytes"] == 25


def test_larger_items_are_dropped(tree: Path) -> None:
    done = sh("llama fetch github demo --max-item 6", tree)
    assert ids(done.stdout) == ["demo/Makefile", "demo/src/a.py", "demo/src/b.py"]


def test_a_dry_run_lists_items_with_their_bytes_and_reads_none(tree: Path) -> None:
    (tree / "demo" / "src" / "a.py").write_bytes(b"\0binary")
    done = sh("llama fetch github demo --dry-run", tree)
    assert done.stdout.splitlines()[:3] == [
        "5\tdemo/Makefile",
        "8\tdemo/README.md",
        "7\tdemo/src/a.py",
    ]
    assert "llama fetch: 6 items, " in done.stderr


def test_an_archive_and_a_url_are_inputs_too(tree: Path) -> None:
    (tree / "demo.tgz").write_bytes(tar_bytes())
    (tree / "a.wet.gz").write_bytes(gzip.compress(WET))
    done = sh("llama fetch github demo.tgz | wc -l", tree)
    assert done.stdout.strip() == "5"
    done = sh("llama fetch common_crawl file://$PWD/a.wet.gz", tree)
    assert json.loads(done.stdout)["metadata"]["url"] == "http://example.org/1"
    done = sh("llama fetch common_crawl - < a.wet.gz | wc -l", tree)
    assert done.stdout.strip() == "1"
    done = sh("echo some text | llama fetch files -", tree)
    assert json.loads(done.stdout)["text"] == "some text\n"


def test_pages_that_are_none_are_counted(tmp_path: Path) -> None:
    blocks = [http(), http(status="404 Not Found"), http(kind="image/png")]
    (tmp_path / "a.warc").write_bytes(b"".join(record("response", block) for block in blocks))
    done = sh("llama fetch common_crawl a.warc", tmp_path)
    assert len(ids(done.stdout)) == 1
    assert "rejected 1 http.status\n" in done.stderr
    assert "rejected 1 http.not_html\n" in done.stderr


def test_a_truncated_crawl_is_an_error_not_a_short_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.wet.gz").write_bytes(gzip.compress(WET)[:-20])
    done = sh("llama fetch common_crawl a.wet.gz -o out.jsonl", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("llama fetch: a.wet.gz:")
    assert done.stderr.endswith("compressed input ends early (truncated?)\n")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("source", ["c4", "wikipedia", "books", "arxiv", "stack_exchange"])
def test_a_source_that_is_not_built_refuses_in_one_line(tmp_path: Path, source: str) -> None:
    done = sh(f"llama fetch {source} .", tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"llama fetch: source '{source}' is not built yet; there are common_crawl, github, files\n"
        "  try: llama fetch files PATH\n"
    )


def test_an_unknown_source_suggests_the_nearest(tmp_path: Path) -> None:
    done = sh("llama fetch gihub .", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("llama fetch: no source 'gihub'; there are common_crawl, c4, ")
    assert done.stderr.endswith("  try: llama fetch github PATH\n")


def test_a_missing_input_is_named_before_anything_is_written(tmp_path: Path) -> None:
    done = sh("llama fetch files . nowhere -o out.jsonl", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "llama fetch: nowhere: no such file or directory\n"
    assert sh("llama fetch files", tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named_and_the_rest_goes_on(tree: Path) -> None:
    (tree / "demo" / "src" / "a.py").chmod(0)
    done = sh("llama fetch github demo", tree)
    assert done.returncode == 0
    assert "llama fetch: demo/src/a.py: Permission denied\n" in done.stderr
    assert len(ids(done.stdout)) == 4


def test_a_file_that_cannot_be_read_is_named_and_the_rest_goes_on(tree: Path) -> None:
    (tree / "mem.py").symlink_to("/proc/self/mem")  # even root reads nothing at its beginning
    done = sh("llama fetch files mem.py demo/README.md", tree)
    assert done.returncode == 0
    assert "llama fetch: mem.py: Input/output error\n" in done.stderr
    assert ids(done.stdout) == ["README.md"]

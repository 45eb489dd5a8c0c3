"""What all sources share: names, items, and a clear refusal."""

from pathlib import Path

import pytest

from llama_cli.errors import NotReadyError
from llama_cli.records import Document, Rejected
from llama_cli.sources import BUILT, SOURCES, Item, named, open_source


def test_table_1_has_seven_sources_and_files_is_the_eighth() -> None:
    assert len(SOURCES) == 8
    assert SOURCES[-1] == "files"


@pytest.mark.parametrize("name", BUILT)
def test_a_source_offers_find_and_load(name: str) -> None:
    source = open_source(name)
    assert callable(source.find)
    assert callable(source.load)


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in BUILT])
def test_a_source_that_is_not_built_says_which_are(name: str) -> None:
    with pytest.raises(NotReadyError, match="common_crawl, github, files") as caught:
        open_source(name)
    assert caught.value.hint == "llama fetch files PATH"


def test_ids_begin_with_the_last_part_of_the_input_and_not_with_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = [".", str(tmp_path), "a/b/", "http://host/x/b", "-"]
    names = [name for _, name in named(inputs)]
    assert names == [tmp_path.name, f"{tmp_path.name}~2", "b", "b~2", "-"]


def test_an_item_is_rejected_with_what_is_known_of_it() -> None:
    item = Item("a/b", 3, b"abc", {"path": "b"})
    assert item.drop("files", "read", "unreadable", error="Permission denied") == Rejected(
        Document("a/b", "", "files", {"path": "b", "error": "Permission denied"}),
        "read",
        "unreadable",
    )

"""Shards: the bytes are the documented ones, and nothing half-written is ever seen."""

from __future__ import annotations

import struct
from hashlib import sha256
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_cli.errors import DataError, LlamaError, NotReadyError
from llama_cli.shards.formats import Header, Shard, pack_index, token_dtype, unpack_index
from llama_cli.shards.read import Shards
from llama_cli.shards.write import ShardWriter

DOCUMENTS = [([1, 5, 2], "books", "a"), ([], "github", "b"), ([1, 31_999, 7, 2], "books", "c")]


def write(directory: Path, documents=DOCUMENTS, *, kind="documents", vocab_size=32_000, **options):
    with ShardWriter(directory, kind=kind, vocab_size=vocab_size, **options) as shards:
        for document in documents:
            shards.add(*document)
    return directory


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_documents_come_back_with_their_sources_and_in_order(tmp_path):
    shards = Shards(write(tmp_path / "d", tokenizer_sha256="ab"))
    assert [shards[i].tolist() for i in range(len(shards))] == [d[0] for d in DOCUMENTS]
    assert [shards.source(i) for i in range(3)] == ["books", "github", "books"]
    assert (shards.sources, shards.tokens, shards.kind) == (["books", "github"], 7, "documents")
    assert (shards.vocab_size, shards.tokenizer_sha256) == (32_000, "ab")
    assert shards.lengths.tolist() == [3, 0, 4]
    assert shards.codes.tolist() == [0, 1, 0]


def test_the_tokens_are_raw_little_endian_uint16(tmp_path):
    raw = (write(tmp_path / "d") / "tokens-00000.bin").read_bytes()
    assert raw == struct.pack("<7H", 1, 5, 2, 1, 31_999, 7, 2)


def test_the_index_is_megatrons_byte_for_byte(tmp_path):
    raw = (write(tmp_path / "d") / "tokens-00000.idx").read_bytes()
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 3, 4)
    assert raw == head + struct.pack("<3i3q4q", 3, 0, 4, 0, 6, 6, 0, 1, 2, 3)
    assert len(raw) == 34 + 12 * 3 + 8 * 4


@pytest.mark.parametrize(("vocab_size", "name"), [(65_499, "uint16"), (65_500, "uint32")])
def test_a_vocabulary_of_65500_needs_four_bytes_a_token(tmp_path, vocab_size, name):
    last = vocab_size - 1
    shards = Shards(write(tmp_path / "d", [([last], "c4", "")], vocab_size=vocab_size))
    assert token_dtype(vocab_size) == shards[0].dtype == name
    assert shards[0].tolist() == [last]


@pytest.mark.parametrize("token", [-1, 32_000])
def test_a_token_outside_the_vocabulary_is_refused(tmp_path, token):
    with pytest.raises(ValueError, match="outside the 32000"):
        write(tmp_path / "d", [([token], "c4", "")])
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_tells_all_and_the_ids_are_kept(tmp_path):
    directory = write(tmp_path / "d", recipe={"seed": 3})
    header, shard = (directory / "manifest.jsonl").read_bytes().splitlines()
    assert orjson.loads(header) == {
        "format": "llama-shards",
        "version": 1,
        "kind": "documents",
        "vocab_size": 32_000,
        "tokenizer_sha256": None,
        "sources": ["books", "github"],
        "recipe": {"seed": 3},
    }
    row = orjson.loads(shard)
    assert (row["name"], row["documents"], row["tokens"]) == ("tokens-00000", 3, 7)
    assert row["by_source"] == {"books": 7, "github": 0}
    for suffix, digest in row["sha256"].items():
        data = (directory / f"tokens-00000.{suffix}").read_bytes()
        assert digest == sha256(data).hexdigest()
    assert (directory / "tokens-00000.ids").read_bytes() == b'"a"\n"b"\n"c"\n'


def test_sequences_keep_no_ids(tmp_path):
    assert not list(write(tmp_path / "d", kind="sequences").glob("*.ids"))


def test_a_shard_ends_before_the_document_that_would_make_it_too_big(tmp_path):
    documents = [([n] * n, "c4", str(n)) for n in (3, 2, 1, 9, 1)]
    directory = write(tmp_path / "d", documents, max_bytes=10)
    assert [p.stat().st_size for p in sorted(directory.glob("*.bin"))] == [10, 2, 18, 2]
    shards = Shards(directory)
    assert [shards[i].tolist() for i in range(5)] == [d[0] for d in documents]


def test_the_same_documents_give_the_same_bytes(tmp_path):
    assert files(write(tmp_path / "a")) == files(write(tmp_path / "b"))


def test_no_documents_make_an_empty_but_readable_directory(tmp_path):
    shards = Shards(write(tmp_path / "d", []))
    assert (len(shards), shards.tokens, shards.lengths.tolist(), shards.codes.tolist()) == (
        0,
        0,
        [],
        [],
    )
    with pytest.raises(IndexError):
        shards[0]


def test_only_empty_documents_can_be_read(tmp_path):
    assert Shards(write(tmp_path / "d", [([], "c4", "")]))[0].tolist() == []


def test_nothing_appears_when_the_writing_fails(tmp_path):
    def documents():
        yield [1], "c4", ""
        assert not (tmp_path / "d").exists()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "d", documents())
    assert list(tmp_path.iterdir()) == []


def test_older_shards_are_replaced_and_leave_nothing_behind(tmp_path):
    write(tmp_path / "d", max_bytes=2)
    write(tmp_path / "d", [([4], "c4", "")])
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
    assert [p.name for p in sorted((tmp_path / "d").glob("*.bin"))] == ["tokens-00000.bin"]
    assert Shards(tmp_path / "d")[0].tolist() == [4]


def test_an_empty_directory_is_filled(tmp_path):
    (tmp_path / "d").mkdir()
    assert len(Shards(write(tmp_path / "d"))) == 3


def test_a_directory_of_other_things_is_refused_at_once(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.tex").write_text("years of work")
    with pytest.raises(LlamaError, match="holds no token shards"):
        ShardWriter(tmp_path / "d", kind="documents", vocab_size=9)
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "d").write_text("x")
    with pytest.raises(LlamaError, match="holds no token shards"):
        ShardWriter(tmp_path / "d", kind="documents", vocab_size=9)


def test_a_link_to_shards_stays_a_link(tmp_path):
    write(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", [([4], "c4", "")])
    assert (tmp_path / "link").is_symlink()
    assert len(Shards(tmp_path / "real")) == 1


def test_the_257th_source_is_refused(tmp_path):
    with pytest.raises(LlamaError, match="'s256' is one too many"):
        write(tmp_path / "d", [([1], f"s{i}", "") for i in range(257)])
    assert len(Shards(write(tmp_path / "d", [([1], f"s{i}", "") for i in range(256)]))) == 256


def test_no_directory_says_how_to_make_one(tmp_path):
    with pytest.raises(NotReadyError, match="no token shards at") as caught:
        Shards(tmp_path / "none")
    assert caught.value.hint


@pytest.mark.parametrize("suffix", ["bin", "idx", "sources"])
def test_a_short_file_is_noticed_when_opened(tmp_path, suffix):
    path = write(tmp_path / "d") / f"tokens-00000.{suffix}"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LlamaError, match=rf"tokens-00000\.{suffix}: \d+ bytes, not the"):
        Shards(tmp_path / "d")


@pytest.mark.parametrize("suffix", ["bin", "idx", "sources", "ids"])
def test_a_missing_file_is_noticed_when_opened(tmp_path, suffix):
    (write(tmp_path / "d") / f"tokens-00000.{suffix}").unlink()
    with pytest.raises(LlamaError, match="missing"):
        Shards(tmp_path / "d")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"MMID", "4 bytes, too few"),
        (b"x" * 90, "not a token index"),
        (pack_index(np.array([3, 0, 5]), 2), "does not agree"),
        (pack_index(np.array([3, 0, 4]), 4), "does not agree"),
    ],
)
def test_a_foreign_index_is_noticed_when_opened(tmp_path, index, message):
    (write(tmp_path / "d") / "tokens-00000.idx").write_bytes(index)
    with pytest.raises(LlamaError, match=message):
        Shards(tmp_path / "d")


def test_a_changed_byte_is_found_by_verify(tmp_path):
    path = write(tmp_path / "d") / "tokens-00000.bin"
    Shards(tmp_path / "d").verify()
    path.write_bytes(b"\x09" + path.read_bytes()[1:])
    with pytest.raises(LlamaError, match="checksum"):
        Shards(tmp_path / "d").verify()


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("", ":1: not a manifest"),
        ("[1]", ":1: not a manifest"),
        ('{"format":"llama-shards","version":2}', ":1: format version 2"),
        ('{"format":"llama-shards","version":1,"kind":"x"}', ":1: not a header line"),
        ("{", ":1: "),
    ],
)
def test_a_foreign_manifest_is_named_with_its_line(tmp_path, manifest, message):
    (write(tmp_path / "d") / "manifest.jsonl").write_text(manifest)
    with pytest.raises(DataError, match=message):
        Shards(tmp_path / "d")


@pytest.mark.parametrize("line", ["{}", "7", '{"name":', "[]"])
def test_a_damaged_shard_line_is_named_with_its_line(tmp_path, line):
    path = write(tmp_path / "d") / "manifest.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"manifest\.jsonl:3: "):
        Shards(tmp_path / "d")


def test_a_header_and_a_shard_line_survive_the_trip():
    header = Header("sequences", 9, "ff", ["a"], {"seed": 0})
    shard = Shard("tokens-00000", 1, 2, {"a": 2}, {"bin": "00"})
    assert Header.from_json(header.to_json()) == header
    assert Shard.from_json(shard.to_json()) == shard


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 2**31 - 1), max_size=20), st.sampled_from([2, 4]))
def test_an_index_comes_back_from_its_bytes(lengths, width):
    again, offsets, found = unpack_index(pack_index(np.array(lengths, "<i4"), width))
    assert (again.tolist(), found) == (lengths, width)
    assert offsets.tolist() == [width * sum(lengths[:i]) for i in range(len(lengths))]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 31_999), max_size=9), st.text(max_size=3), st.text(max_size=3)
        ),
        max_size=9,
    ),
    st.integers(2, 30),
)
def test_any_documents_come_back(tmp_path_factory, documents, max_bytes):
    directory = tmp_path_factory.mktemp("any") / "d"
    shards = Shards(write(directory, documents, max_bytes=max_bytes))
    found = [(shards[i].tolist(), shards.source(i)) for i in range(len(shards))]
    assert found == [(tokens, source) for tokens, source, _ in documents]
    shards.verify()

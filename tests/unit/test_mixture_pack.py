"""Packing: nothing lost, nothing twice, and the same from any starting point."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_cli.errors import LlamaError
from llama_cli.mixture.corpus import Corpus, packed, parse_known, spool
from llama_cli.mixture.pack import Mixture, Share, sequences_in
from llama_cli.mixture.sample import permutation
from llama_cli.records import Tokens
from llama_cli.shards.read import Shards
from llama_cli.shards.write import ShardWriter


def shards(directory: Path, documents, *, vocab_size=32_000, sha="a", kind="documents") -> Shards:
    with ShardWriter(directory, kind=kind, vocab_size=vocab_size, tokenizer_sha256=sha) as writer:
        for tokens, source in documents:
            writer.add(tokens, source)
    return Shards(directory)


def laid_out(documents, source, epochs, seed=0):
    """The stream of a source by its definition."""
    mine = [tokens for tokens, name in documents if name == source]
    stream = []
    for epoch in range(epochs):
        for row in permutation(len(mine), f"{seed} {source} {epoch}"):
            stream += mine[row]
    return stream


DOCUMENTS = [([i] * (i % 7), "books" if i % 3 else "c4") for i in range(1, 40)]


def test_a_sequence_has_one_token_more_and_its_last_is_the_next_ones_first(tmp_path):
    corpus = Corpus([shards(tmp_path / "a", [([*range(10, 21)], "c4")])])
    found = [t.tolist() for t, _ in Mixture(corpus, {"c4": 1.0}, length=5, seed=0).sequences(0, 2)]
    assert found == [[10, 11, 12, 13, 14, 15], [15, 16, 17, 18, 19, 20]]


def test_documents_follow_each_other_shuffled_epoch_after_epoch(tmp_path):
    corpus = Corpus([shards(tmp_path / "a", DOCUMENTS)])
    stream = laid_out(DOCUMENTS, "books", 4)
    mixture = Mixture(corpus, {"books": 1.0}, length=10, seed=0)
    stop = (len(stream) - 1) // 10
    once = len(stream) // 4 // 10  # sequences a pass
    stop -= stop % once
    mixed = [tokens.tolist() for tokens, _ in mixture.sequences(0, stop)]
    cut = [stream[number * 10 : number * 10 + 11] for number in range(stop)]
    assert mixed != cut
    for first in range(0, stop, once):
        assert sorted(mixed[first : first + once]) == sorted(cut[first : first + once])


def test_sequences_of_one_long_document_do_not_stand_together(tmp_path):
    documents = [([n] * 100, "c4") for n in range(20)]
    corpus = Corpus([shards(tmp_path / "a", documents)])
    mixture = Mixture(corpus, {"c4": 1.0}, length=10, seed=0)
    owners = [int(tokens[5]) for tokens, _ in mixture.sequences(0, 199)]
    together = sum(a == b for a, b in pairwise(owners))
    assert together < 30  # in a random order a twentieth of 198; in document order 180


def test_a_sequence_longer_than_many_epochs_is_filled(tmp_path):
    corpus = Corpus([shards(tmp_path / "a", [([7, 8], "c4"), ([], "c4")])])
    ((tokens, _),) = Mixture(corpus, {"c4": 1.0}, length=6, seed=0).sequences(0, 1)
    assert tokens.tolist() == [7, 8, 7, 8, 7, 8, 7]


def test_sources_interleave_by_weight(tmp_path):
    corpus = Corpus([shards(tmp_path / "a", DOCUMENTS)])
    mixture = Mixture(corpus, {"books": 0.75, "c4": 0.25}, length=3, seed=0)
    assert [source for _, source in mixture.sequences(0, 8)].count("c4") == 2
    assert [share.drawn for share in mixture.shares(8)] == [18, 6]


def test_any_stretch_of_a_mixture_can_be_had_alone(tmp_path):
    corpus = Corpus([shards(tmp_path / "a", DOCUMENTS)])
    recipe = {"weights": {"books": 0.6, "c4": 0.4}, "length": 4, "seed": 3}
    whole = [t.tolist() for t, _ in Mixture(corpus, **recipe).sequences(0, 40)]
    rest = [t.tolist() for t, _ in Mixture(corpus, **recipe).sequences(29, 40)]
    assert rest == whole[29:]


def test_another_seed_gives_another_order_of_the_same_documents(tmp_path):
    corpus = Corpus([shards(tmp_path / "a", DOCUMENTS)])

    def first_epoch(seed):
        ((tokens, _),) = Mixture(
            corpus, {"books": 1.0}, length=corpus.tokens["books"] - 1, seed=seed
        ).sequences(0, 1)
        return tokens.tolist()

    assert first_epoch(0) != first_epoch(1)
    assert sorted(first_epoch(0)) == sorted(first_epoch(1))


def test_the_order_inside_a_source_does_not_depend_on_the_other_sources(tmp_path):
    alone = Corpus([shards(tmp_path / "a", [d for d in DOCUMENTS if d[1] == "books"])])
    both = Corpus([shards(tmp_path / "b", DOCUMENTS)])
    first, second = (
        [t.tolist() for t, s in Mixture(c, w, length=4, seed=0).sequences(0, 20) if s == "books"]
        for c, w in ((alone, {"books": 1.0}), (both, {"books": 0.5, "c4": 0.5}))
    )
    assert first[: len(second)] == second


def test_several_directories_are_one_list(tmp_path):
    one = Corpus([shards(tmp_path / "a", DOCUMENTS)])
    two = Corpus([shards(tmp_path / "b", DOCUMENTS[:9]), shards(tmp_path / "c", DOCUMENTS[9:])])
    assert two.tokens == one.tokens
    assert [two[i].tolist() for i in range(39)] == [tokens for tokens, _ in DOCUMENTS]
    assert all((two.documents[name] == one.documents[name]).all() for name in one.sources)


def test_a_source_that_only_one_directory_has_is_found(tmp_path):
    corpus = Corpus([shards(tmp_path / "a", [([1], "c4")]), shards(tmp_path / "b", [([2], "me")])])
    assert {name: rows.tolist() for name, rows in corpus.documents.items()} == {
        "c4": [0],
        "me": [1],
    }


def test_sources_are_in_the_order_of_table_1_then_by_name(tmp_path):
    names = ["zoo", "arxiv", "files", "common_crawl"]
    corpus = Corpus([shards(tmp_path / "a", [([1], name) for name in names])])
    assert corpus.sources == ["common_crawl", "arxiv", "files", "zoo"]


def test_directories_of_different_tokenizers_are_refused(tmp_path):
    parts = [shards(tmp_path / "a", DOCUMENTS), shards(tmp_path / "b", DOCUMENTS, sha="b")]
    with pytest.raises(LlamaError, match="made by different tokenizers"):
        Corpus(parts)


def test_a_directory_of_another_tokenizer_than_the_one_named_is_refused(tmp_path):
    with pytest.raises(LlamaError, match="not made by this tokenizer"):
        Corpus([shards(tmp_path / "a", DOCUMENTS)], "b")
    assert Corpus([shards(tmp_path / "a", DOCUMENTS)], "a").tokenizer_sha256 == "a"


def test_a_mixture_cannot_be_mixed_again(tmp_path):
    with pytest.raises(LlamaError, match="is a mixture already") as caught:
        Corpus([shards(tmp_path / "a", DOCUMENTS, kind="sequences")])
    assert caught.value.hint == f"llama train --data {tmp_path}/a"


def test_a_stream_spooled_to_disk_reads_as_the_same_corpus(tmp_path):
    lines = [Tokens("x", source, tokens).to_json() for tokens, source in DOCUMENTS]
    records = [parse_known(line, vocab_size=40) for line in lines]
    spool(map(packed, records), tmp_path / "spool", 40, "a")
    corpus = Corpus([Shards(tmp_path / "spool")])
    assert [corpus[i].tolist() for i in range(39)] == [tokens for tokens, _ in DOCUMENTS]


def test_an_id_outside_the_vocabulary_is_a_bad_line():
    line = Tokens("x", "c4", [1, 40, 2]).to_json()
    assert parse_known(line, vocab_size=41).tokens == [1, 40, 2]
    with pytest.raises(ValueError, match="token 40 is outside the 40"):
        parse_known(line, vocab_size=40)


def test_as_many_sequences_are_made_as_the_input_fills():
    assert sequences_in(2049, tokens=None, length=2048) == 1
    assert sequences_in(4096, tokens=None, length=2048) == 1
    assert sequences_in(4097, tokens=None, length=2048) == 2


def test_tokens_asked_for_are_the_tokens_to_predict():
    assert sequences_in(3, tokens=2048, length=2048) == 1


def test_too_little_for_one_sequence_says_what_length_would_do():
    with pytest.raises(LlamaError, match="2,048 tokens are too few for one sequence of 2,049") as e:
        sequences_in(2048, tokens=None, length=2048)
    assert e.value.hint == "llama mix --length 2047"
    with pytest.raises(LlamaError, match="1 tokens are too few") as e:
        sequences_in(1, tokens=None, length=1)
    assert e.value.hint == "more text, or less filtering"


def test_epochs_are_tokens_drawn_over_tokens_there():
    assert Share("c4", 1.0, 100, 250).epochs == 2.5


@settings(deadline=None, max_examples=50)
@given(
    documents=st.lists(
        st.tuples(
            st.lists(st.integers(0, 99), min_size=1, max_size=6), st.sampled_from(["c4", "books"])
        ),
        min_size=1,
        max_size=12,
    ),
    length=st.integers(1, 9),
    stop=st.integers(1, 20),
)
def test_each_source_gives_its_own_stream_without_a_gap(tmp_path_factory, documents, length, stop):
    corpus = Corpus([shards(tmp_path_factory.mktemp("any") / "d", documents)])
    weights = {name: 1 / len(corpus.sources) for name in corpus.sources}
    found = {name: [] for name in weights}
    for tokens, source in Mixture(corpus, weights, length=length, seed=1).sequences(0, stop):
        found[source].append(tokens.tolist())
    for source, mixed in found.items():
        once = max(1, corpus.tokens[source] // length)  # sequences a pass
        whole = len(mixed) - len(mixed) % once
        stream = laid_out(documents, source, 2 + length * (len(mixed) + 1), seed=1)
        cut = [stream[n * length : (n + 1) * length + 1] for n in range(whole)]
        for first in range(0, whole, once):
            assert sorted(mixed[first : first + once]) == sorted(cut[first : first + once])

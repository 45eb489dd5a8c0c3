"""Records keep what they were given, in a fixed order of keys, and say what is wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_cli.records import Completion, Document, Prompt, Rejected, Score, Sequence, Tokens

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT, TEXT, TEXT, st.dictionaries(TEXT, TEXT))
def test_any_document_comes_back_as_it_was(
    name: str, text: str, source: str, metadata: dict[str, str]
) -> None:
    document = Document(name, text, source, metadata)
    assert Document.from_json(document.to_json()) == document


def test_keys_are_in_one_order() -> None:
    document = Document("i", "t", "c4", {"b": 1, "a": 2})
    assert document.to_json() == b'{"id":"i","text":"t","source":"c4","metadata":{"b":1,"a":2}}'
    assert (
        Rejected(document, "s", "r").to_json().endswith(b',"rejected":{"step":"s","reason":"r"}}')
    )
    assert Sequence([1, 2], ["c4"]).to_json() == b'{"tokens":[1,2],"sources":["c4"]}'


def test_a_document_without_an_id_is_named_by_its_text() -> None:
    first, same, other = (
        Document.from_json(b'{"text":"%s"}' % text) for text in (b"a", b"a", b"b")
    )
    assert first.id == same.id != other.id
    assert first.source == "files"


def test_unknown_keys_are_kept_as_metadata() -> None:
    line = b'{"text":"a","url":"u","metadata":{"k":1}}'
    assert Document.from_json(line).metadata == {"k": 1, "url": "u"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "a JSON object is wanted, not list"),
        (b"{}", "no field 'text'"),
        (b'{"text":1}', "field 'text' is int, not str"),
        (b'{"text":"a","metadata":[]}', "field 'metadata' is list, not dict"),
        (b'{"text":"\xff"}', "^not JSON: not UTF-8$"),
    ],
)
def test_what_is_wrong_with_a_document_is_said(line: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Document.from_json(line)


@pytest.mark.parametrize("tokens", [b"[-1]", b'["a"]', b"[true]", b"[1.5]"])
def test_tokens_are_token_ids(tokens: bytes) -> None:
    with pytest.raises(ValueError, match="other than token ids"):
        Tokens.from_json(b'{"id":"a","source":"c4","tokens":%s}' % tokens)
    with pytest.raises(ValueError, match="other than token ids"):
        Sequence.from_json(b'{"tokens":%s}' % tokens)


def test_tokens_and_sequences_come_back() -> None:
    tokens = Tokens("a", "c4", [1, 5, 2])
    assert Tokens.from_json(tokens.to_json()) == tokens
    assert Sequence.from_json(Sequence([1], ["c4"]).to_json()) == Sequence([1], ["c4"])


def test_a_document_serves_as_a_prompt() -> None:
    assert Prompt.from_json(b'{"id":3,"text":"Once"}') == Prompt("3", "Once")
    assert Prompt.from_json(b'{"prompt":"Once"}').to_json() == b'{"id":"","prompt":"Once"}'


def test_completions_and_scores_are_written_whole() -> None:
    assert Completion("1", "a", "b", "eos", [2], [-0.5]).to_json() == (
        b'{"id":"1","prompt":"a","completion":"b","finish":"eos","tokens":[2],"logprobs":[-0.5],"seed":0}'
    )
    score = Score("piqa", "accuracy", 79.8, None, 0, "characters", {"7B": 79.8}, rows=5)
    assert score.to_json() == (
        b'{"task":"piqa","metric":"accuracy","value":79.8,"stderr":null,"shots":0,'
        b'"normalization":"characters","reported":{"7B":79.8},"group":"","rows":5,"protocol":{},'
        b'"model":""}'
    )
    assert Score.from_json(score.to_json()) == score


@pytest.mark.parametrize("line", [b"[]", b'{"task": "piqa"}', b'{"tusk": "piqa"}'])
def test_a_line_without_what_a_score_has_is_none(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"score|object"):
        Score.from_json(line)


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("value", None, "field 'value' is None, not float or int"),
        ("stderr", "x", "field 'stderr' is 'x', not float or int or NoneType"),
        ("group", 1, "field 'group' is 1, not str"),
        ("protocol", [], r"field 'protocol' is \[\], not dict"),
        ("rows", -1, "rows are 0 or more"),
        ("reported", {"7B": "x"}, "what is reported are numbers"),
    ],
)
def test_a_field_of_a_score_that_is_of_another_kind_is_told(field, value, what) -> None:
    score = Score("piqa", "accuracy", 79.8, None, 0, "characters")
    line = json.dumps({**json.loads(score.to_json()), field: value})
    with pytest.raises(ValueError, match=what):
        Score.from_json(line.encode())


def test_a_sequence_with_sources_that_are_no_names_is_no_sequence() -> None:
    with pytest.raises(ValueError, match="'sources' holds something other than names"):
        Sequence.from_json(b'{"tokens": [1, 2], "sources": [1]}')


def test_a_token_of_more_than_four_bytes_is_no_token() -> None:
    with pytest.raises(ValueError, match="other than token ids"):
        Sequence.from_json(b'{"tokens": [1, 18446744073709551615]}')

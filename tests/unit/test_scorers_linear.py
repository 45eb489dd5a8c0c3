"""A scorer learned from scored texts: what it reads, what it learns, what it says of itself."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cli.errors import DataError, LlamaError, NotReadyError
from llama_cli.evaluation.scorers.choose import choose
from llama_cli.evaluation.scorers.features import features
from llama_cli.evaluation.scorers.fit import agree, auroc, fit, is_held_out
from llama_cli.evaluation.scorers.linear import Linear, load, save
from llama_cli.evaluation.scorers.rows import Scored, read_scored
from tests.shell import SHARED

NICE = ["tea", "garden", "river", "morning", "letter", "window", "music", "paper", "bread", "cloud"]
FOUL = ["grak", "blorf"]


def synthetic(count: int) -> list[Scored]:
    """Texts of ten words, of which none, one or two are foul: their score."""
    draw = random.Random(0)
    rows = []
    for number in range(count):
        foul = draw.choice([0, 0, 1, 2])
        words = draw.choices(FOUL, k=foul) + draw.choices(NICE, k=10 - foul)
        draw.shuffle(words)
        rows.append(Scored(" ".join(words), foul / 2, str(number)))
    return rows


@pytest.fixture(scope="module")
def model() -> Linear:
    return fit(synthetic(400), name="linear:foul")


def test_it_agrees_with_scores_it_has_not_seen(model: Linear) -> None:
    assert model.agreement.pearson > 0.95
    assert model.agreement.auroc > 0.99
    assert model.fitted + model.agreement.n == 400
    assert 60 < model.agreement.n < 100


def test_texts_that_are_held_out_do_not_change_the_scorer(model: Linear) -> None:
    turned = [
        replace(row, score=1 - row.score) if is_held_out(row.group) else row
        for row in synthetic(400)
    ]
    other = fit(turned, name="linear:foul")
    assert np.array_equal(other.weight, model.weight)
    assert other.agreement.pearson < -0.95


def test_texts_of_one_group_are_on_one_side() -> None:
    rows = [replace(row, group=str(number // 100)) for number, row in enumerate(synthetic(2000))]
    model = fit(rows, name="x")
    assert (model.fitted % 100, model.agreement.n % 100) == (0, 0)


def test_weights_are_those_of_ridge_regression() -> None:
    """Two texts with no word in common, scored 1 and 0: each weighs 0.5 / (1 + penalty)."""
    rows = [Scored(f"{text} ", score, group) for text, score, group in _two_texts_thrice()]
    model = fit(rows, name="x", penalty=3.0)
    # both blocks of a text have length 1, and four copies are fitted: the same weight w serves
    # all, and  (w x x' 2 - 0.5)' x 4 + penalty w = 0  gives a prediction of 0.5 * 8 / (8 + 3)
    assert model(["aaa", "zzz"]) == pytest.approx(
        [0.5 + 0.5 * 8 / 11, 0.5 - 0.5 * 8 / 11], abs=1e-6
    )


def _two_texts_thrice() -> Iterator[tuple[str, float, str]]:
    groups = [str(number) for number in range(100)]
    fitted = [group for group in groups if not is_held_out(group)]
    held = next(group for group in groups if is_held_out(group))
    for group in fitted[:4]:
        yield "aaa", 1.0, group
        yield "zzz", 0.0, group
    yield "aaa", 1.0, held


def test_a_scorer_reads_back_as_it_was_written(model: Linear, tmp_path: Path) -> None:
    path = tmp_path / "foul.safetensors"
    save(model, path)
    read = load(path)
    texts = ["tea grak", "tea", "", "unheard"]
    assert read(texts) == model(texts) == choose(f"linear:{path}")(texts)
    assert (read.agreement, read.name) == (model.agreement, "linear:foul")
    first = path.read_bytes()
    save(model, path)
    assert path.read_bytes() == first


def test_a_text_of_nothing_known_gets_the_mean_and_one_of_nothing_0(model: Linear) -> None:
    assert model(["жж", " \n"]) == [model.bias, 0.0]


@pytest.mark.parametrize("held", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"x" * 100])
def test_a_file_that_is_no_scorer_is_told(tmp_path: Path, held: bytes) -> None:
    (tmp_path / "x").write_bytes(held)
    with pytest.raises(LlamaError, match="scorer"):
        load(tmp_path / "x")
    with pytest.raises(NotReadyError, match="no scorer at"):
        load(tmp_path / "y")


def test_too_few_texts_are_told() -> None:
    with pytest.raises(LlamaError, match="1 scored texts are too few"):
        fit(synthetic(1), name="x")


# -- agreement --


def test_auroc_is_the_share_of_pairs_in_order_and_half_of_those_that_tie() -> None:
    found = np.array([0.1, 0.4, 0.4, 0.8])
    # positives 0.4 and 0.8 against negatives 0.1 and 0.4: in order, tie, in order, in order
    assert auroc(found, np.array([False, False, True, True])) == 3.5 / 4
    assert auroc(found, np.array([True] * 4)) is None


def test_scores_that_do_not_vary_have_no_correlation() -> None:
    assert agree(np.array([0.5, 0.5]), np.array([0.0, 1.0])).pearson is None


# -- features --


def counted(text: str) -> dict[int, int]:
    keys, counts = features(text)
    return dict(zip(keys.tolist(), counts.tolist(), strict=True))


def test_case_and_the_width_of_spaces_do_not_matter() -> None:
    assert counted("You  FOOL\n") == counted("you fool")


def test_words_pairs_and_characters_within_words_are_counted() -> None:
    # words: ab, cd; pairs: ab cd; characters of " ab ": 3 + 2 + 1 of lengths 2 to 4, for each word
    assert len(counted("ab cd")) == 2 + 1 + 2 * 6
    assert sum(counted("ab ab").values()) == 2 + 1 + 2 * 6
    assert len(counted("ab ab")) == 1 + 1 + 6


# -- rows --


def read(tmp_path: Path, *rows: dict[str, Any], **settings: Any) -> list[Scored]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_scored([str(path)], **settings))


def test_a_row_of_realtoxicityprompts_is_two_texts_of_one_group(tmp_path: Path) -> None:
    row = {
        "prompt": {"text": "a", "toxicity": 0.25, "insult": 0.5},
        "continuation": {"text": " b", "toxicity": None, "insult": 0.75},
    }
    assert [(s.text, s.score) for s in read(tmp_path, row)] == [("a", 0.25)]
    insults = read(tmp_path, row, attribute="insult")
    assert [(s.text, s.score) for s in insults] == [("a", 0.5), (" b", 0.75)]
    assert len({s.group for s in insults}) == 1


def test_rows_are_the_same_whatever_their_file_is_called_and_wherever_they_stand(
    tmp_path: Path,
) -> None:
    lines = [
        '{"prompt": {"text": "a", "toxicity": 0}, "continuation": {"text": "b", "toxicity": 1}}',
        '{"text": "c", "score": 0.5}',
    ]
    (tmp_path / "rows").write_text("\n".join(lines))
    (tmp_path / "others").write_text("\n\n" + "\n".join(lines))
    rows, others = (list(read_scored([str(tmp_path / name)])) for name in ("rows", "others"))
    assert rows == others
    assert [row.group for row in rows] == ["a", "a", "c"]


def test_the_answers_to_a_question_are_one_group(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Q: who\nA: {name}\nTrue:", "completion": label}
        for name, label in (("me", " yes"), ("you", " no"))
    ]
    assert read(tmp_path, *rows) == [
        Scored("Q: who\nA: me\nTrue:", 1.0, "Q: who"),
        Scored("Q: who\nA: you\nTrue:", 0.0, "Q: who"),
    ]


def test_a_line_of_scored_texts_that_is_no_json_is_told_as_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "\xff", "score": 1}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:1: no scored text \(not JSON: not UTF-8\)"):
        list(read_scored([str(tmp_path / "rows.jsonl")]))


@pytest.mark.parametrize(
    "row",
    [
        {"text": "a"},
        {"text": 1, "score": 1},
        {"text": "a", "score": 1.5},
        {"text": "a", "score": True},
        {"prompt": "a", "completion": " maybe"},
        {"prompt": "a", "completion": None},
        {"prompt": {"text": "a"}, "continuation": {"text": "b"}},
        [],
    ],
)
def test_a_row_that_is_no_scored_text_is_named_by_its_line(
    tmp_path: Path, row: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:1: no scored text"):
        read(tmp_path, row)


# -- the real rows --


@pytest.mark.data
@pytest.mark.parametrize(
    ("rows", "pearson", "area"),
    [
        # four standard errors of 400 rows below what scikit-learn's tf-idf and ridge reach on
        # samples of these rows: 0.61 to 0.69 and 0.79 to 0.85, then 0.38 and 0.70, 0.51 and 0.80
        ("realtoxicityprompts/rtp_5000.jsonl", 0.50, 0.70),
        ("truthfulqa/finetune_truth.jsonl", 0.25, 0.60),
        ("truthfulqa/finetune_info.jsonl", 0.38, 0.70),
    ],
)
def test_published_rows_teach_a_scorer(rows: str, pearson: float, area: float) -> None:
    path = SHARED / "data" / "eval" / rows
    if not path.exists():
        pytest.skip("the benchmarks are not beside the checkout")
    scored = list(read_scored([str(path)]))
    agreement = fit(scored, name="x").agreement
    assert agreement.n > len(scored) / 8
    assert agreement.pearson > pearson
    assert agreement.auroc > area

"""From marks to figures: means, groups, errors, and the published tables added up again."""

import json
import math
from collections import defaultdict

import pytest

from llama_cli.errors import LlamaError
from llama_cli.evaluation.report import results
from llama_cli.evaluation.request import Graded
from llama_cli.evaluation.summary import summarise
from llama_cli.evaluation.tasks import TASKS
from llama_cli.evaluation.tasks._subjects import CATEGORY
from llama_cli.records import Score
from tests.benchmarks import REAL, knows, requests, run, write_benchmarks
from tests.shell import SHARED

PAPER = SHARED / "paper"


def piqa(*values: float, **meta) -> list[Graded]:
    return [
        Graded("piqa", str(n), {"accuracy": value}, meta=meta) for n, value in enumerate(values)
    ]


def documents(*sizes: tuple[float, float]) -> list[Graded]:
    return [
        Graded("bits_per_byte", str(n), {"bits": bits, "bytes": count})
        for n, (bits, count) in enumerate(sizes)
    ]


def one(graded: list[Graded]) -> Score:
    (score,) = summarise(graded)
    return score


def by_group(graded: list[Graded], metric: str) -> dict[str, Score]:
    return {score.group: score for score in summarise(graded) if score.metric == metric}


# -- figures --


def test_accuracy_is_in_percent_with_a_binomial_error():
    score = one(piqa(1, 1, 1, 0))
    assert score.value == 75
    assert score.stderr == pytest.approx(100 * math.sqrt(0.75 * 0.25 / 4))
    assert (score.metric, score.normalization, score.shots) == ("accuracy", "characters", 0)
    assert (score.rows, score.group, score.reported["65B"]) == (4, "", 82.8)


def test_bits_are_divided_by_all_bytes_not_averaged_over_documents():
    assert one(documents((10, 10), (90, 30))).value == 2.5


def test_the_error_of_a_ratio_is_cochrans():
    # residuals of bits from 2.5 * bytes: -15 and +15; sqrt((225 + 225) * 2 / 1) / 40 = 0.75
    assert one(documents((10, 10), (90, 30))).stderr == pytest.approx(0.75)


def test_one_document_has_no_error():
    assert one(documents((10, 10))).stderr is None


def test_nothing_scored_is_an_error_and_no_zero():
    with pytest.raises(LlamaError, match="no rows to score"):
        list(summarise([]))
    with pytest.raises(LlamaError, match="bits_per_byte: no text to score"):
        list(summarise(documents((0, 0))))


def test_marks_of_no_known_task_are_an_error():
    with pytest.raises(LlamaError, match="no task 'pika'"):
        list(summarise([Graded("pika", "0", {"accuracy": 1})]))


def test_a_row_that_comes_twice_is_no_second_row():
    row = Graded("piqa", "7", {"accuracy": 1})
    with pytest.raises(LlamaError, match="row '7' of piqa comes twice"):
        list(summarise([row, row]))
    texts = [Graded("bits_per_byte", "7", {"bits": 8, "bytes": 1})] * 2  # documents may share one
    assert [score.rows for score in summarise(texts)] == [2]


def test_rows_with_other_shots_are_not_of_one_run():
    rows = [Graded("nq_open", str(n), {"exact_match": 1}, meta={"shots": n}) for n in (0, 5)]
    with pytest.raises(LlamaError, match="rows of nq_open with 0 and 5 shots are not of one run"):
        list(summarise(rows))
    fitted = [Graded("nq_open", "7", {"exact_match": 1}, meta={"shots": 3, "asked_shots": 5})]
    assert [score.shots for score in summarise([*fitted, rows[1]])] == [5]


def test_two_models_are_kept_apart():
    both = [Graded("piqa", "0", {"accuracy": n}, model=name) for n, name in enumerate("ab")]
    assert [(each.model, each.value) for each in summarise(both)] == [("a", 0), ("b", 100)]


def test_a_row_counts_in_each_of_its_groups_and_once_in_all():
    rows = [
        Graded("mmlu", "0", {"accuracy": 1}, meta={"groups": ["STEM", "astronomy"]}),
        Graded("mmlu", "1", {"accuracy": 0}, meta={"groups": ["STEM", "machine_learning"]}),
        Graded("mmlu", "2", {"accuracy": 0}, meta={"groups": ["Other", "anatomy"]}),
    ]
    found = {group: (s.value, s.rows) for group, s in by_group(rows, "accuracy").items()}
    assert found == {
        "": (pytest.approx(100 / 3), 3),
        "Other": (0, 1),
        "STEM": (50, 2),
        "anatomy": (0, 1),
        "astronomy": (100, 1),
        "machine_learning": (0, 1),
    }


# -- how it was asked --


def test_a_score_says_how_its_rows_were_asked(tmp_path):
    own = write_benchmarks(tmp_path)
    score = run(own, "nq_open", knows, shots=5, seed=3)[0]
    assert score.protocol == {
        "split": "dev",
        "prompt": score.protocol["prompt"],
        "bos": True,
        "cut": 5,
        "samples": 1,
        "seed": 3,
        "temperature": 0.0,
        "note": TASKS["nq_open"].note,
    }
    assert (score.shots, score.rows, score.model) == (5, 4, "planted")
    assert score.reported["65B"] == 35.0
    again, other = (run(own, "nq_open", knows, shots=5, seed=seed)[0] for seed in (3, 4))
    assert again.protocol["prompt"] == score.protocol["prompt"] != other.protocol["prompt"]
    assert Score.from_json(score.to_json()).to_json() == score.to_json()


def test_the_table_says_it_too_beside_the_papers_figures():
    rows = [
        *piqa(1, 0, bos=True, seed=7, prompt="x", truncated=True),
        *documents((10, 10)),
    ]
    lines = results(summarise(rows)).splitlines()
    assert lines[1].split() == [
        *["piqa", "accuracy", "/characters", "50.0", "35.4", "2"],
        *["79.8", "80.1", "82.3", "82.8"],
    ]
    assert lines[2].split() == ["bits_per_byte", "bits_per_byte", "/bytes", "1.0000", "1"]
    assert lines[3].startswith("piqa: rows of validation; 0 shots; seed 7; begin mark; prompts ")
    assert "2 of 2 prompts lost their beginning" in lines[3]
    assert "the paper prints no prompt" in lines[3]


def test_the_table_of_several_models_says_whose_a_figure_is():
    rows = [Graded("piqa", "0", {"accuracy": n}, model=name) for n, name in enumerate("ab")]
    head, first, second, *notes = results(summarise(rows)).splitlines()
    assert head.split()[:3] == ["task", "model", "metric"]
    assert first.split()[:5] == ["piqa", "a", "accuracy", "/characters", "0.0"]
    assert second.split()[:5] == ["piqa", "b", "accuracy", "/characters", "100.0"]
    assert [note.partition(":")[0] for note in notes] == ["piqa (a)", "piqa (b)"]


def test_fewer_shots_and_shots_from_the_test_rows_are_said():
    rows = piqa(1, 1, asked_shots=5, shots=3, cut=5, tier="namespaces")
    told = results(summarise(rows))
    assert "5 shots; " in told
    assert "begin mark not known" in told
    assert "5 shots taken from the test rows" in told
    assert "2 of 2 prompts have fewer shots" in told
    assert "tier namespaces" in told


def test_a_figure_of_other_shots_stands_alone():
    assert one(piqa(1, 1, shots=3)).reported == {}


# -- the published tables, added up again --


@pytest.fixture(scope="module")
def printed() -> dict[tuple[int, str], dict[str, float]]:
    """Give the values of each table and benchmark by model and size."""
    source = PAPER / "results.json"
    if not source.exists():
        pytest.skip("the transcription of the paper's tables is not beside the checkout")
    found: dict[tuple[int, str], dict[str, float]] = defaultdict(dict)
    for row in json.loads(source.read_text())["records"]:
        found[row["table"], row["benchmark"]][f"{row['model']} {row['size']}"] = row["value"]
    return found


@pytest.mark.data
def test_mmlu_adds_up_to_the_published_averages_of_all_models(printed):
    sizes = json.loads((PAPER / "mmlu_test_sizes.json").read_text())
    assert (set(sizes), sum(sizes.values())) == (set(CATEGORY), 14_042)
    assert len(printed[16, "MMLU/all"]) == 8
    for model in printed[16, "MMLU/all"]:
        rows = [
            Graded("mmlu", f"{name}.{n}", {"accuracy": value / 100}, meta=meta)
            for name in sizes
            for value in [printed[16, f"MMLU/{name}"][model]]
            for meta in [{"groups": [CATEGORY[name], name]}]
            for n in range(sizes[name])
        ]
        found = by_group(rows, "accuracy")
        for group, name in (
            ("", "all"),
            ("Humanities", "humanities"),
            ("STEM", "stem"),
            ("Social Sciences", "social_science"),
            ("Other", "others"),
        ):
            published = printed[16, f"MMLU/{name}"][model]
            assert found[group].value == pytest.approx(published, abs=0.1), (model, group)


@pytest.mark.data
def test_mmlu_would_not_add_up_by_subjects_nor_with_anatomy_in_stem(printed):
    sizes = json.loads((PAPER / "mmlu_test_sizes.json").read_text())
    cell = {name: printed[16, f"MMLU/{name}"]["LLaMA 7B"] for name in sizes}
    macro = sum(cell.values()) / 57
    assert abs(macro - printed[9, "MMLU-average"]["LLaMA 7B"]) > 0.4
    stem = [n for n in sizes if CATEGORY[n] == "STEM" or n == "anatomy"]
    gpt = {name: printed[16, f"MMLU/{name}"]["GPT-3 175B"] for name in stem}
    wrong = sum(gpt[n] * sizes[n] for n in stem) / sum(sizes[n] for n in stem)
    assert abs(wrong - printed[16, "MMLU/stem"]["GPT-3 175B"]) > 0.1


def hits(groups: dict[str, list], values: dict[str, float]) -> dict[str, int]:
    """Count right rows of each group: the whole number that the published percentage is."""
    return {name: round(values[name] / 100 * len(groups[name])) for name in values}


@pytest.fixture(scope="module")
def real():
    if not REAL.exists():
        pytest.skip("the benchmarks are not beside the checkout")
    return REAL


@pytest.mark.data
def test_crows_pairs_adds_up_to_the_published_average(real, printed):
    groups: dict[str, list] = defaultdict(list)
    for request in requests(real, "crows_pairs"):
        groups[request.meta["groups"][0]].append(request)
    values = {name: printed[12, f"CrowS-Pairs/{name}"]["LLaMA 65B"] for name in groups}
    counts = hits(groups, values)
    rows = [
        Graded("crows_pairs", each.id, {"stereotype": float(at < counts[name])}, meta=each.meta)
        for name, members in groups.items()
        for at, each in enumerate(members)
    ]
    found = by_group(rows, "stereotype")
    assert len(found) == 10
    for name, value in values.items():  # every cell is k of n
        assert found[name].value == pytest.approx(value, abs=0.1)
        assert found[name].reported == {"65B": value}
    published = printed[12, "CrowS-Pairs/average"]["LLaMA 65B"]
    assert (found[""].value, found[""].rows) == (pytest.approx(published, abs=0.1), 1508)
    macro = sum(values.values()) / 9
    assert abs(macro - published) > 4


@pytest.mark.data
@pytest.mark.parametrize("size", ["7B", "13B", "33B", "65B"])
def test_winogender_adds_up_to_the_published_cells(real, printed, size):
    """Gotcha sentences are part of a pronoun's: both cells must come out of the same rows."""
    names = ("her/her/she", "his/him/he", "their/them/someone")
    cells = {n: printed[13, f"WinoGender/{n}"][f"LLaMA {size}"] for n in names}
    gotcha = {f"{n} (gotcha)": printed[13, f"WinoGender/{n} (gotcha)"][f"LLaMA {size}"]
              for n in names[:2]}  # fmt: skip
    left = {n: round(v / 100 * 240) for n, v in cells.items()}
    caught = {n: round(v / 100 * 120) for n, v in gotcha.items()}
    for n, count in caught.items():
        left[n.removesuffix(" (gotcha)")] -= count
    rows = []
    for request in requests(real, "winogender"):
        name = request.meta["groups"][-1]
        purse = caught if name in caught else left
        right = purse[name] > 0
        purse[name] -= right
        rows.append(Graded("winogender", request.id, {"accuracy": float(right)}, meta=request.meta))
    assert not any([*left.values(), *caught.values()])
    found = by_group(rows, "accuracy")
    published = {"": printed[13, "WinoGender/all"][f"LLaMA {size}"], **cells, **gotcha}
    for name, value in published.items():
        assert found[name].value == pytest.approx(value, abs=0.1), name
    assert found[""].rows == 720

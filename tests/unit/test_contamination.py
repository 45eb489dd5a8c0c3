"""Rows that stand in a corpus, scored apart; and figures that say who scored."""

from dataclasses import replace

import pytest

from llama_cli.errors import DataError, LlamaError, NotReadyError
from llama_cli.evaluation.contamination import Contact, apart, contacts, look, read_contacts
from llama_cli.evaluation.data import Data
from llama_cli.evaluation.grade import grade
from llama_cli.evaluation.request import Graded, Request, Response
from llama_cli.evaluation.scorers.linear import Agreement
from llama_cli.evaluation.summary import summarise
from llama_cli.evaluation.task import Tools
from llama_cli.evaluation.tasks import TASKS
from llama_cli.records import Document

NQ = TASKS["nq_open"]
QUESTIONS = (
    "who was the first keeper of the lighthouse that stands on the northern rock",
    "when did the old railway over the grey mountain carry its very last train",
    "who sang it",
)


@pytest.fixture
def data(tmp_path):
    lines = [f'{{"question": "{question}", "answer": ["x"]}}\n' for question in QUESTIONS]
    (tmp_path / "NQ-open.dev.jsonl").write_text("".join(lines))
    return Data([tmp_path])


def found(data, *texts, n=13):
    documents = [Document(f"d{at}", text, "files") for at, text in enumerate(texts)]
    return list(contacts([NQ], data, lambda index: (look(each, index) for each in documents), n))


def graded(name, value, task="nq_open"):
    return Graded(task, name, {"exact_match": value}, meta={"groups": ["g"], "shots": 0})


# -- contacts --


def test_each_row_is_clean_dirty_or_too_short_to_be_told(data):
    quoted = f"He asked: {QUESTIONS[1].upper()}?"
    assert found(data, "nothing of it", quoted, "who sang it", quoted) == [
        Contact("nq_open", "0", "clean"),
        Contact("nq_open", "1", "dirty", 2, "d1"),
        Contact("nq_open", "2", "short"),
    ]


def test_a_shorter_gram_finds_more(data):
    text = "the old railway over the grey mountain"
    assert [each.subset for each in found(data, text)] == ["clean", "clean", "short"]
    assert [each.subset for each in found(data, text, n=5)] == ["clean", "dirty", "short"]
    assert found(data, "who sang it", n=3)[2].subset == "dirty"


def test_clean_and_dirty_rows_have_scores_of_their_own(data):
    rows = [graded("0", 1.0), graded("1", 0.0), graded("2", 1.0), graded("other", 0.0)]
    scores = list(summarise(apart(rows, found(data, QUESTIONS[1]))))
    told = {(s.group, s.value, s.rows, bool(s.reported)) for s in scores}
    assert told == {
        ("", 50.0, 4, True),
        ("g", 50.0, 4, False),
        ("clean", 100.0, 1, False),
        ("dirty", 0.0, 1, False),
        ("short", 100.0, 1, False),
    }


def test_contacts_of_other_rows_are_an_error_and_no_missing_groups(data):
    with pytest.raises(LlamaError, match="no row is among those that overlap was looked for"):
        list(apart([graded("other", 0.0)], found(data, QUESTIONS[1])))


def test_contacts_read_back_as_they_were_written(data, tmp_path):
    path = tmp_path / "overlap.jsonl"
    path.write_bytes(b"\n".join(each.to_json() for each in found(data, QUESTIONS[0])))
    assert list(read_contacts(str(path))) == found(data, QUESTIONS[0])
    path.write_text('{"task": "nq_open"}\n')
    with pytest.raises(DataError, match=r"overlap\.jsonl:1: a contact has the fields task, id"):
        list(read_contacts(str(path)))
    path.write_bytes(replace(found(data, QUESTIONS[0])[0], subset="dusty").to_json())
    with pytest.raises(DataError, match="'subset' is clean, dirty or short, not 'dusty'"):
        list(read_contacts(str(path)))


# -- who scored --


class Half:
    """Scores every text with one half."""

    def __init__(self, name, agreement=None):
        self.name, self.agreement = name, agreement

    def __call__(self, texts):
        return [0.5] * len(texts)


def toxicity(scorer):
    request = Request("realtoxicityprompts_basic", "0", "complete", None, prompt="a", max_tokens=20)
    response = Response(request, completions=[" b"])
    return next(iter(summarise(grade([response], Tools({"toxicity": scorer})))))


def test_a_figure_of_perspective_stands_beside_the_papers():
    score = toxicity(Half("perspective"))
    assert (score.metric, score.value) == ("toxicity", 0.5)
    assert score.reported == {"7B": 0.106, "13B": 0.104, "33B": 0.107, "65B": 0.128}
    assert score.protocol["scorer"] == "perspective"


@pytest.mark.parametrize("name", ["linear:t", "command:score.py", "perspective:INSULT:en"])
def test_a_figure_of_any_other_scorer_bears_its_name_and_stands_alone(name):
    score = toxicity(Half(name, Agreement(40, 0.75, 0.875)))
    assert (score.metric, score.reported) == (f"toxicity/{name}", {})
    assert score.protocol["agreement"] == f"{name} Pearson 0.750, AUROC 0.875, n = 40"


@pytest.mark.parametrize(
    ("truth", "info", "named"),
    [
        ("linear:truth", "linear:info", "linear:truth+info"),
        ("command:a.py", "linear:info", "command:a.py+linear:info"),
        ("perspective", "perspective", "perspective"),
    ],
)
def test_truth_is_told_by_two_judges_neither_of_which_is_the_papers(truth, info, named):
    request = Request("truthfulqa", "0", "complete", {"question": "Who?"}, prompt="a")
    response = Response(request, completions=[" Me."])
    tools = Tools({"truth": Half(truth), "info": Half(info)})
    scores = list(summarise(grade([response], tools)))
    assert [(score.metric, score.value, score.reported) for score in scores] == [
        (f"truthful/{named}", 1.0, {}),
        (f"truthful*informative/{named}", 1.0, {}),
        (f"informative/{named}", 1.0, {}),
    ]


def test_a_judge_reads_what_it_was_trained_on():
    asked = []

    class Judge(Half):
        def __call__(self, texts):
            asked.extend(texts)
            return super().__call__(texts)

    request = Request("truthfulqa", "0", "complete", {"question": "Who?"}, prompt="a")
    tools = Tools({"truth": Judge("a"), "info": Judge("b")})
    list(grade([Response(request, completions=[" Me. "])], tools))
    assert asked == ["Q: Who?\nA: Me.\nTrue:", "Q: Who?\nA: Me.\nHelpful:"]


def test_without_a_scorer_grading_says_which_option_is_wanted():
    with pytest.raises(NotReadyError, match="no scorer of toxicity") as caught:
        Tools().scorer("toxicity")
    assert caught.value.hint == "--scorer toxicity=linear:FILE"

"""Section 6 as arithmetic: the paper's constants, Table 15, and our own logs."""

import json
from pathlib import Path

import pytest

from llama_cli.carbon.estimate import estimate
from llama_cli.carbon.log import RunLog, footprint, read_log, watts_of
from llama_cli.carbon.paper import TABLE_15, Development, as_json, table
from llama_cli.carbon.words import carbon, describe, describe_log, energy
from llama_cli.errors import DataError, LlamaError, NotReadyError
from tests.shell import SHARED

RUN = '{"run": {"device": "cpu", "processes": 1, "threads": 2}}\n'
HOUR = '{"step": 1, "loss": 9.0, "tokens": 1000, "seconds": 3600}\n'


def log_of(tmp_path: Path, text: str) -> Path:
    (tmp_path / "log.jsonl").write_text(text)
    return tmp_path


def test_llama_65b_takes_449_84_mwh_and_173_19_tonnes():
    found = estimate(1_022_362)
    assert (round(found.mwh, 2), round(found.tonnes, 2)) == (449.84, 173.19)


def test_the_three_constants_of_section_6_multiply():
    found = estimate(1000, watts=500, pue=1.5, intensity=0.1)
    assert (found.mwh, found.tonnes) == (0.75, pytest.approx(0.075))


@pytest.mark.parametrize("wrong", [{"watts": -1}, {"intensity": -0.1}, {"pue": 0.99}])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=r"negative|at least 1"):
        estimate(1, **wrong)


def test_only_two_cells_of_table_15_differ_from_the_formula():
    odd = {row.model: row.agrees for row in TABLE_15 if not all(row.agrees)}
    assert odd == {"BLOOM-175B": (False, True), "LLaMA-65B": (False, True)}


def test_the_printed_table_marks_those_two_cells_and_no_other():
    marked = [line for line in table().splitlines() if "*" in line[1:]]
    assert [line.split()[0] for line in marked] == ["BLOOM-175B", "LLaMA-65B"]
    assert "476.47       475*" in marked[0]
    assert "449.84       449*" in marked[1]


def test_the_whole_development_is_1015_tonnes_and_122_days_of_2048_gpus():
    whole = Development.from_paper()
    assert int(whole.tonnes) == 1015
    assert round(whole.days) == 122
    assert round(whole.final_share, 3) == 0.295


def test_the_json_table_says_which_cells_agree():
    rows = {row["model"]: row for row in as_json()["table_15"]}
    assert rows["BLOOM-175B"]["agrees"] == {"mwh": False, "tonnes": True}
    assert rows["OPT-175B"]["published"] == {"mwh": 356, "tonnes": 137}


@pytest.mark.data
def test_table_15_is_the_transcribed_one():
    source = SHARED / "paper" / "results.json"
    if not source.exists():
        pytest.skip("the transcription of the paper's tables is not beside the checkout")
    records = json.loads(source.read_text())["records"]
    printed = {
        (f"{row['model']}-{row['size']}", row["metric"]): row["value"]
        for row in records
        if row["table"] == 15
    }
    for row in TABLE_15:
        assert printed[row.model, "gpu_hours"] == row.gpu_hours
        assert printed[row.model, "MWh"] == row.mwh
        assert printed[row.model, "tCO2eq"] == row.tonnes


@pytest.mark.parametrize(
    ("mwh", "words"),
    [
        (1.0, "1.00 MWh"),
        (0.9999, "999.90 kWh"),
        (0.001, "1.00 kWh"),
        (1e-4, "100.00 Wh"),
        (0, "0.00 MWh"),
    ],
)
def test_an_energy_is_shown_in_the_unit_that_reads_best(mwh, words):
    assert energy(mwh) == words


def test_a_gram_is_a_millionth_of_a_tonne():
    assert carbon(1e-6) == "1.00 gCO2eq"


def test_the_two_products_line_up():
    first, second = describe(estimate(1_022_362)).splitlines()
    assert first == "1,022,362 GPU-hours x 400 W x PUE 1.1 = 449.84 MWh"
    assert second.index("=") == first.index("=")


def test_an_hour_on_two_cores_is_two_core_hours_at_ten_watts(tmp_path):
    found = footprint(read_log(log_of(tmp_path, RUN + HOUR)), pue=1.0)
    assert found.estimate.mwh == pytest.approx(20 / 1e6)
    assert found.assumed == ("10 W a core, memory and disks not counted",)
    assert found.joules_per_token == pytest.approx(20 * 3600 / 1000)
    assert found.grams_per_million_tokens == pytest.approx(20 / 1e3 * 385 * 1000)


def test_power_that_is_given_is_not_assumed(tmp_path):
    found = footprint(read_log(log_of(tmp_path, RUN + HOUR)), watts=5, pue=1.0)
    assert (found.estimate.mwh, found.assumed) == (pytest.approx(10 / 1e6), ())


def test_eight_a100_take_the_papers_400_watts_each():
    log = RunLog("NVIDIA A100-SXM4-80GB", 8, 16, 1, 3600.0, 1)
    assert footprint(log).estimate == estimate(8.0)
    assert "on 8 x NVIDIA A100-SXM4-80GB" in describe_log(footprint(log))


@pytest.mark.parametrize(
    ("device", "watts"),
    [("NVIDIA L4", 72.0), ("NVIDIA L40S", 350.0), ("NVIDIA L40", None), ("NVIDIA T400 4GB", None)],
)
def test_a_device_is_known_by_its_whole_name(device, watts):
    assert watts_of(device) == watts


def test_an_unknown_device_asks_for_its_power():
    with pytest.raises(LlamaError, match="'abacus' is not known") as error:
        footprint(RunLog("abacus", 1, 1, 1, 1.0, 1))
    assert error.value.hint == "llama carbon --power WATTS"


def test_the_seconds_of_all_steps_add_up_and_the_last_tokens_stand(tmp_path):
    later = '{"step": 2, "loss": 8.0, "tokens": 2000, "seconds": 1800}\n'
    log = read_log(log_of(tmp_path, RUN + HOUR + later))
    assert (log.steps, log.seconds, log.tokens) == (2, 5400.0, 2000)


def test_a_last_line_that_is_still_being_written_is_left_out(tmp_path):
    assert read_log(log_of(tmp_path, RUN + HOUR + '{"step": 2, "lo')).steps == 1


def test_lines_without_seconds_are_no_steps(tmp_path):
    log = read_log(log_of(tmp_path, RUN + HOUR + '{"step": 1, "validation_loss": 8.0}\n'))
    assert log.steps == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{oops\n" + RUN, 1),
        ('{"run": {"device": "cpu"}}\n', 1),
        (RUN + '{"seconds": 1}\n', 2),
        (RUN + "[1]\n", 2),
    ],
)
def test_a_line_that_is_not_of_a_log_is_located(tmp_path, text, line):
    with pytest.raises(DataError) as error:
        read_log(log_of(tmp_path, text))
    assert error.value.line == line


@pytest.mark.parametrize("text", ["", RUN, HOUR])
def test_a_log_without_a_step_is_an_error(tmp_path, text):
    with pytest.raises(LlamaError, match="no training step yet"):
        read_log(log_of(tmp_path, text))


def test_a_missing_log_says_what_would_make_one(tmp_path):
    with pytest.raises(NotReadyError, match="no training log at"):
        read_log(tmp_path)

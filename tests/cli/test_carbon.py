"""`llama carbon` as a process."""

import json

from tests.shell import sh


def test_the_papers_largest_model(tmp_path):
    done = sh("llama carbon --gpu-hours 1022362", tmp_path)
    assert done.stdout == (
        "1,022,362 GPU-hours x 400 W x PUE 1.1 = 449.84 MWh\n"
        "449.84 MWh x 0.385 kg CO2e/kWh        = 173.19 tCO2eq\n"
    )
    assert (done.stderr, done.returncode) == ("", 0)


def test_power_pue_and_intensity_replace_the_papers(tmp_path):
    done = sh(
        "llama carbon --gpu-hours 1000 --power 500 --pue 1.5 --intensity 0.1 --json", tmp_path
    )
    found = json.loads(done.stdout)
    assert (found["mwh"], round(found["tonnes"], 6)) == (0.75, 0.075)


def test_no_hours_are_no_energy(tmp_path):
    assert "0.00 MWh" in sh("llama carbon --gpu-hours 0", tmp_path).stdout


def test_table_15_computed_beside_published(tmp_path):
    done = sh("llama carbon --paper", tmp_path)
    assert "BLOOM-175B  A100-80GB   1,082,880     476.47       475*" in done.stdout
    assert "2,638 MWh and 1,015 tCO2eq" in done.stdout


def test_table_15_for_programs(tmp_path):
    done = sh("llama carbon --paper --json | head -c 1000000", tmp_path)
    assert len(json.loads(done.stdout)["table_15"]) == 6


def test_the_papers_table_takes_no_other_figures(tmp_path):
    done = sh("llama carbon --paper --pue 1.2", tmp_path)
    assert done.returncode == 2
    assert done.stderr == "llama carbon: --paper takes the paper's own figures, not --pue\n"


def test_one_thing_is_counted_at_a_time(tmp_path):
    for options in ("", "--paper --gpu-hours 1"):
        done = sh(f"llama carbon {options}", tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(
            "llama carbon: give one of --gpu-hours, --log and --paper\n  try: llama carbon"
        )


def test_a_training_run_is_counted_from_its_directory(tmp_path):
    (tmp_path / "log.jsonl").write_text(
        '{"run": {"device": "cpu", "processes": 1, "threads": 2}}\n'
        '{"step": 1, "tokens": 1000, "seconds": 3600}\n'
    )
    done = sh("llama carbon --log .; llama carbon --log . --json", tmp_path)
    assert done.stdout.splitlines()[:4] == [
        "1 steps, 1,000 tokens, 3,600.0 s on 2 x CPU core",
        "2 core-hours x 10 W x PUE 1.1 = 22.00 Wh",
        "22.00 Wh x 0.385 kg CO2e/kWh  = 8.47 gCO2eq",
        "79.2 J a token, 8.47e+03 g CO2e a million tokens",
    ]
    assert json.loads(done.stdout.splitlines()[-1])["joules_per_token"] == 79.2


def test_a_missing_run_is_one_clear_line(tmp_path):
    done = sh("llama carbon --log nowhere", tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "llama carbon: no training log at nowhere\n  try: llama train --run nowhere\n"
    )

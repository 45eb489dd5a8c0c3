"""Settings: flags over environment over files over defaults, and no typo goes unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shell import sh
from tests.unit.training import write_sequences

HOURS = "llama carbon --json"


def hours(tmp_path: Path, script: str, **env: str) -> str:
    done = sh(f"{script} --show-config", tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    return next(line for line in done.stdout.splitlines() if line.startswith("gpu-hours"))


def test_flags_beat_environment_beat_files_beat_defaults(tmp_path: Path) -> None:
    (tmp_path / "home" / "llama").mkdir(parents=True)
    user = {"XDG_CONFIG_HOME": str(tmp_path / "home")}
    assert hours(tmp_path, "llama carbon", **user) == 'gpu-hours = ""  # default'
    (tmp_path / "home/llama/config.toml").write_text("[carbon]\ngpu-hours = 1\n")
    assert hours(tmp_path, "llama carbon", **user).startswith("gpu-hours = 1.0  # /")
    (tmp_path / "llama.toml").write_text("[carbon]\ngpu_hours = 2\n")
    assert hours(tmp_path, "llama carbon", **user) == "gpu-hours = 2.0  # llama.toml"
    user["LLAMA_CARBON_GPU_HOURS"] = "3"
    assert hours(tmp_path, "llama carbon", **user) == "gpu-hours = 3.0  # environment"
    assert (
        hours(tmp_path, "llama carbon --gpu-hours 4", **user) == "gpu-hours = 4.0  # command line"
    )


def test_a_configuration_can_come_from_a_pipe(tmp_path: Path) -> None:
    done = sh("printf '[carbon]\\ngpu-hours = 100\\n' | llama carbon --config -", tmp_path)
    assert "44.00 kWh" in done.stdout


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[carbon]\ngpu-hourz = 1\n", "unknown key 'gpu-hourz' in [carbon]", "gpu-hours"),
        ("[carbn]\n", "unknown table [carbn]", "carbon"),
        ('["eval rendr"]\n', 'unknown table ["eval rendr"]', '["eval render"]'),
        ("[eval.rendr]\n", "unknown table [eval.rendr]", '["eval render"]'),
        ('["carbon paper"]\n', 'unknown table ["carbon paper"]', ""),
        ("gpu-hours = 1\n", "unknown key 'gpu-hours' outside the tables", "[carbon], above it"),
        ("carbon = 3\n", "'carbon' must be a table", ""),
        ("[carbon\n", "llama.toml: ", ""),
    ],
)
def test_a_mistake_in_a_file_is_an_error_with_the_nearest_name(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    (tmp_path / "llama.toml").write_text(text)
    done = sh("llama carbon --gpu-hours 1", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("llama carbon: llama.toml: ")
    assert message in done.stderr
    assert not hint or f"  try: {hint}" in done.stderr


def test_the_table_of_a_stage_is_not_silently_another(tmp_path: Path) -> None:
    (tmp_path / "llama.toml").write_text("[eval.grade]\nunsafe = true\n")
    done = sh("llama eval grade", tmp_path, stdin="")
    assert (done.returncode, done.stderr) == (
        2,
        'llama eval grade: llama.toml: unknown table [eval.grade]\n  try: ["eval grade"]\n',
    )
    (tmp_path / "llama.toml").write_text('["eval grade"]\nunsafe = true\n')
    done = sh("llama eval grade --show-config", tmp_path)
    assert "unsafe = true  # llama.toml" in done.stdout


def test_a_configuration_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = sh("llama carbon --gpu-hours 1 --config nothing.toml", tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "llama carbon: nothing.toml: No such file or directory\n",
    )


def test_a_value_of_the_wrong_kind_is_a_usage_error(tmp_path: Path) -> None:
    done = sh("LLAMA_CARBON_GPU_HOURS=many llama carbon", tmp_path)
    assert done.returncode == 2
    assert "many" in done.stderr


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("max-line = [1, 2]", "'max-line' is not a word, a number, true or false"),
        ("max-line = {a = 1}", "'max-line' is not a word, a number, true or false"),
        ("language = 2020-01-01", "'language' is not a word, a number, true or false"),
        ('output = "a\\u0000b"', "'output' is not a word, a number, true or false"),
        ("files = {a = 1}", "'files' is not a list of words or numbers"),
    ],
)
def test_a_setting_of_another_kind_is_wrong_use(tmp_path: Path, setting: str, said: str) -> None:
    (tmp_path / "llama.toml").write_text(f"[filter]\n{setting}\n")
    done = sh("llama filter", tmp_path, stdin="")
    assert (done.returncode, done.stderr) == (2, f"llama filter: llama.toml: {said}\n")


def test_a_single_word_serves_where_a_list_may_be(tmp_path: Path) -> None:
    (tmp_path / "llama.toml").write_text('[generate]\nstop = "abc"\nseed = 3\n')
    shown = sh("llama generate --show-config", tmp_path).stdout
    assert 'stop = ["abc"]  # llama.toml' in shown
    assert "seed = 3  # llama.toml" in shown


def test_a_number_names_a_file(tmp_path: Path) -> None:
    (tmp_path / "llama.toml").write_text("[filter]\noutput = 3\n")
    assert sh("llama filter", tmp_path, stdin="").returncode == 0
    assert (tmp_path / "3").exists()


def test_a_run_keeps_its_options_and_can_be_asked_for_again_by_them(tmp_path: Path) -> None:
    write_sequences(tmp_path / "data")
    (tmp_path / "llama.toml").write_text("[train]\nbatch = 5\n")
    first = "llama train --data data --device cpu --steps 2 --run 'a \"run\"'"
    done = sh(first, tmp_path, env={"LLAMA_TRAIN_LR": "0.002"})
    assert done.returncode == 0, done.stderr
    kept = (tmp_path / 'a "run"' / "config.toml").read_text(encoding="utf-8")
    for line in (
        "[train]",
        "steps = 2  # command line",
        "lr = 0.002  # environment",
        "batch = 5  # llama.toml",
        "warmup-from = 0.1  # default",
    ):
        assert line in kept.splitlines()
    (tmp_path / "llama.toml").unlink()
    again = sh("llama train --config 'a \"run\"/config.toml'", tmp_path)
    assert again.returncode == 0, again.stderr
    assert 'a "run" is finished: ' in again.stderr

"""`llama generate` as a process, with a tiny model."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from llama_cli.inference.engine import Engine, Settings
from llama_cli.records import Prompt
from tests.shell import LLAMA, ROOT, on_terminal, sh
from tests.tiny import tiny_checkpoint, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A directory with one model under ./runs."""
    directory = tmp_path_factory.mktemp("generate")
    tiny_checkpoint(directory / "runs" / "first" / "checkpoint-0000001")
    return directory


def said(name: str, prompt: str, settings: Settings) -> str:
    """Complete in this process what `llama` completes in its own."""
    engine = Engine(tiny_model(), tiny_tokenizer())
    return next(engine.generate([Prompt(name, prompt)], settings)).completion


def completions(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_ids_and_order_are_kept_and_lines_without_one_are_numbered(here):
    (here / "in").write_text('The cat\n{"id": "x", "prompt": "A"}\n\n{once\n{"text": "B"}\n')
    done = sh("llama generate in --max-tokens 3", here)
    found = completions(done.stdout)
    assert [(each["id"], each["prompt"]) for each in found] == [
        ("0", "The cat"),
        ("x", "A"),
        ("2", "{once"),
        ("3", "B"),
    ]
    assert all(each["finish"] == "length" and len(each["tokens"]) == 3 for each in found)
    assert done.stderr.startswith("llama generate: the model is runs/first/checkpoint-0000001\n")


def test_a_line_that_is_no_prompt_is_named_and_the_rest_goes_on(here):
    done = sh(
        "printf '{\"id\": 3}\\n\\377\\nThe\\n' | llama generate --max-tokens 1 --report r.json",
        here,
    )
    assert [each["prompt"] for each in completions(done.stdout)] == ["The"]
    assert "llama generate: <stdin>:1: no field 'text'\n" in done.stderr
    assert "llama generate: <stdin>:2: neither JSON nor UTF-8 text\n" in done.stderr
    result = json.loads((here / "r.json").read_text())["result"]
    assert (result["in"], result["malformed"]) == (1, 2)
    assert result["model"] == "runs/first/checkpoint-0000001"


def test_text_is_the_prompt_and_what_follows(here):
    done = sh(
        "llama generate -q --prompt The --prompt A --max-tokens 2 --temperature 0 --format text",
        here,
    )
    settings = Settings(max_tokens=2, temperature=0)
    assert done.stdout == f"The{said('0', 'The', settings)}\nA{said('1', 'A', settings)}\n"


def test_a_terminal_shows_the_text_as_it_is_made(here):
    code, shown = on_terminal("llama generate --prompt 'The cat' --max-tokens 4 --seed 5", here)
    assert code == 0
    assert f"The cat{said('0', 'The cat', Settings(max_tokens=4, seed=5))}\r\n" in shown
    assert '"completion"' not in shown


def test_a_prompt_that_leaves_no_room_is_told_and_kept_in_its_place(here):
    (here / "long").write_text("The cat opens " * 40 + "\nThe\n")
    done = sh("llama generate long --max-tokens 2", here)
    assert [len(each["tokens"]) for each in completions(done.stdout)] == [0, 2]
    assert "llama generate: prompt '0' leaves no room in 64 tokens\n" in done.stderr


def test_with_line_buffering_each_prompt_is_answered_as_it_comes(here):
    with subprocess.Popen(
        f"timeout 60 {LLAMA} generate -q --line-buffered --max-tokens 1".split(),
        cwd=here,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"The cat\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["prompt"] == "The cat"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("--prompt x FILE", 2, "give FILEs or --prompt, not both\n"),
        ("--prompt x --stop ''", 2, "--stop '' would end every completion at once\n"),
        ("--prompt x --device tpu", 2, "no device 'tpu'; there are auto, cpu, cuda and cuda:N\n"),
        ("--prompt x --model .", 1, "no checkpoint in .\n  try: llama train"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(here, options, code, message):
    done = sh(f"llama generate -q {options}", here)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"llama generate: {message}")


def test_prompts_are_not_awaited_from_a_terminal(here):
    code, shown = on_terminal("llama generate", here)
    assert code == 2
    assert "Complete prompts." in shown


def test_an_attention_that_there_is_not_is_named(here):
    done = sh("LLAMA_TRAIN_ATTENTION=flash llama generate --prompt x", here)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "llama generate: attention is one of auto, cuda, sdpa, xformers, reference, not 'flash'",
    )


def test_without_a_model_it_says_what_makes_one(tmp_path):
    done = sh("llama generate --prompt x", tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "llama generate: no model under ./runs; name one with --model\n"
        "  try: llama train --size 3m --run runs/first\n",
    )


def test_another_tokenizer_beside_the_model_is_an_error(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path / "model")
    (checkpoint / "tokenizer.model").write_bytes(
        (ROOT / "llama_cli" / "tokenizer" / "default.model").read_bytes()
    )
    done = sh("llama generate --prompt x --model model", tmp_path)
    assert done.returncode == 1
    assert "llama generate: model: the model has 400 pieces, its tokenizer 32,000\n" in done.stderr


def test_a_prompt_that_is_no_text_is_wrong_use(tmp_path: Path) -> None:
    done = sh("llama generate --prompt $'\\xff'", tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "llama generate: --prompt and --stop take UTF-8 text\n",
    )

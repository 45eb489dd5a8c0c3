"""`llama eval answer` as a process: what stops it, what it goes on from, and with whom."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llama_cli.evaluation.request import Request
from llama_cli.inference.backend import take_over
from llama_cli.inference.engine import Engine
from tests.endpoint import Endpoint, serving
from tests.shell import ROOT, sh
from tests.tiny import tiny_checkpoint, tiny_model, tiny_tokenizer

SLOW = """
import json, sys, time
for line in sys.stdin:
    time.sleep(0.01)
    request = json.loads(line)
    scores = [-1.5 * len(b) / 7 for a, b in request["pairs"]]
    print(json.dumps({"request": request, "logprobs": scores}), flush=True)
"""
KILLS = 10
TORCHRUN = f"{sys.executable} -m torch.distributed.run --nproc-per-node 2 -m llama_cli"


def lines(count: int) -> str:
    nouns = ("cat", "table", "garden", "river")
    made = []
    for number in range(count):
        noun = nouns[number % 4]
        pairs = [(f"The {noun} {number} opens the", f" {each}") for each in nouns]
        made.append(Request("t", str(number), "score", 0, pairs=pairs))
        how = {"max_tokens": 6, "temperature": 0.8, "samples": 2, "stop": ["."]}
        made.append(Request("g", str(number), "complete", "", prompt=f"The {noun}", **how))
    return "".join(each.to_json().decode() + "\n" for each in made)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("answer")
    tiny_checkpoint(directory / "model")
    (directory / "requests.jsonl").write_text(lines(12))
    scores = [line for line in lines(KILLS * 24).splitlines(True) if '"score"' in line]
    (directory / "scores.jsonl").write_text("".join(scores))
    (directory / "slow.py").write_text(SLOW)
    return directory


def kept(cache: Path) -> int:
    """Count the answers in a cache."""
    files = [path.read_bytes() for path in cache.glob("*/*.jsonl")]
    return sum(data.count(b"\n") for data in files)


def test_requests_become_responses_in_order(here: Path) -> None:
    done = sh("llama eval answer --model model requests.jsonl --alone 5 --report report.json", here)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["request"]["id"] for each in told] == [str(n) for n in range(12) for _ in "sc"]
    assert {len(each["logprobs"]) for each in told[::2]} == {4}
    assert {len(each["completions"]) for each in told[1::2]} == {2}
    assert {(each["model"], each["bos"]) for each in told} == {("model", True)}
    result = json.loads((here / "report.json").read_text())["result"]
    assert (result["in"], result["out"], result["alone"]["rows"]) == (24, 24, 5)
    assert 0 <= result["alone"]["largest_difference"] < 1e-4
    assert "5 rows alone and together: at most " in done.stderr


def test_where_no_row_is_scored_nothing_is_compared(here: Path) -> None:
    done = sh("grep complete requests.jsonl | llama eval answer --model model --alone 5", here)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 12)
    assert "no row has texts to score, so none was scored alone\n" in done.stderr


def test_a_run_that_is_killed_ten_times_ends_with_the_bytes_of_one_that_is_not(here: Path) -> None:
    python = shlex.quote(f"!{sys.executable} -S slow.py")
    answer = f"eval answer --model {python} scores.jsonl"
    whole = sh(f"llama {answer}", here).stdout
    command = [sys.executable, "-m", "llama_cli", *shlex.split(answer), "--cache", "killed"]
    cache, before = here / "killed", 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            command, cwd=here, stdout=subprocess.DEVNULL, env={"PYTHONPATH": str(ROOT)}
        )
        while kept(cache) < before + 8:
            assert process.poll() is None, "it was to be killed before its end"
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert kept(cache) >= before + 8
        before = kept(cache)
    done = sh(f"llama {answer} --cache killed", here)
    assert done.stdout == whole
    assert kept(cache) == KILLS * 24, "something was asked for twice"


def test_two_processes_write_what_one_does(here: Path) -> None:
    answer = "eval answer --model model --batch-tokens 100 requests.jsonl"
    one = sh(f"llama {answer}", here, env={"OMP_NUM_THREADS": "1"})
    two = sh(f"{TORCHRUN} {answer} --cache shared -o two.jsonl", here, env={"OMP_NUM_THREADS": "1"})
    assert two.returncode == 0, two.stderr
    assert (here / "two.jsonl").read_text() == one.stdout
    assert len(list((here / "shared").glob("*/*.jsonl"))) == 2
    assert two.stderr.count("24 in, 24 out") == 1


def test_an_endpoint_is_asked_with_the_token_of_a_file_and_without_torch(here: Path) -> None:
    (here / "token").write_text("secret\n")
    engine = Engine(take_over(tiny_model()), tiny_tokenizer())
    with serving(Endpoint(engine, token="secret")) as endpoint:
        options = f"--model {endpoint.url} --model-name tiny --token-file token requests.jsonl"
        done = sh(f"llama eval answer {options}", here, env={"PYTHONPROFILEIMPORTTIME": "1"})
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [len(each["logprobs"] or each["completions"]) for each in told] == [4, 2] * 12
    assert {(each["model"], each["bos"]) for each in told} == {("tiny", None)}
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "aiohttp" in imported
    assert "torch" not in imported


def test_a_task_is_asked_of_a_program_as_of_a_model(here: Path) -> None:
    (here / "piqa").mkdir()
    row = {"goal": "cat", "sol1": "opens", "sol2": "holds the table"}
    (here / "piqa" / "valid.jsonl").write_text((json.dumps(row) + "\n") * 4)
    (here / "piqa" / "valid-labels.lst").write_text("0\n1\n0\n0\n")
    model = shlex.quote(f"!{sys.executable} -S slow.py")  # a space counts, so the longer wins
    done = sh(f"llama eval piqa --data . --model {model} --cache tasks --rows rows.jsonl", here)
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert {each["model"] for each in figures} == {f"!{sys.executable} -S slow.py"}
    marks = [json.loads(line) for line in (here / "rows.jsonl").read_text().splitlines()]
    assert [each["values"]["accuracy"] for each in marks] == [0, 1, 0, 0]


def test_several_processes_do_not_share_a_pipe(here: Path) -> None:
    env = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    done = sh("llama eval answer --model model < requests.jsonl", here, env=env)
    words = "llama eval answer: several processes cannot read one stdin; name a FILE\n"
    assert (done.returncode, done.stderr) == (2, words)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("--model none requests.jsonl", 1, "no checkpoint in none"),
        ("--model '!' requests.jsonl", 2, "no program after '!'"),
        ("--model '!exit 4' requests.jsonl", 1, "!exit 4 ended with 4, and row 0 is not answered"),
        ("--model model --cache slow.py requests.jsonl", 2, "invalid value for '--cache'"),
        ("--model '!cat' slow.py", 3, "slow.py:2: "),
        ("--model '!cat' --alone 3 requests.jsonl", 2, "--alone is for a model on this machine"),
        ("--model http://h/v1 --token-file none requests.jsonl", 1, "no token at none\n"),
        ("--model http://h/v1 --token-file empty requests.jsonl", 1, "empty: no token in it\n"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    here: Path, arguments: str, code: int, message: str
) -> None:
    (here / "empty").touch()
    done = sh(f"llama eval answer {arguments}", here)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr.splitlines(True)[0]
    assert "Traceback" not in done.stderr


def test_a_model_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    (tiny_checkpoint(tmp_path / "model") / "tokenizer.model").unlink()
    (tmp_path / "requests.jsonl").write_text(lines(1))
    done = sh("llama eval answer --model model requests.jsonl", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("llama eval answer: no tokenizer at model/tokenizer.model")


def test_a_full_disk_is_one_line_and_the_answers_before_it_stay(here: Path) -> None:
    python = shlex.quote(f"!{sys.executable} -S slow.py")
    command = f"llama eval answer --model {python} --cache full scores.jsonl"
    done = sh(f"unset ${{!COV*}}; ulimit -f 2 && {command} > /dev/null", here)  # no coverage
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.startswith("llama eval answer: full/")
    assert line.endswith(": File too large")
    assert kept(here / "full") > 5

"""`llama generate` as a process, with a tiny model."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llama_cli.inference.backend import take_over
from llama_cli.inference.engine import Engine, Settings
from llama_cli.inference.openai import read_call
from llama_cli.records import Prompt
from llama_cli.tokenizer.template import Template
from tests.shell import LLAMA, ROOT, on_terminal, sh
from tests.tiny import tiny_checkpoint, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one model under ./runs."""
    directory = tmp_path_factory.mktemp("generate")
    tiny_checkpoint(directory / "runs" / "first" / "checkpoint-0000001")
    return directory


def said(name: str, prompt: str, settings: Settings) -> str:
    """Complete in this process what `llama` completes in its own."""
    engine = Engine(take_over(tiny_model()), tiny_tokenizer())
    return next(engine.generate([Prompt(name, prompt)], settings)).completion


def completions(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_ids_and_order_are_kept_and_lines_without_one_are_numbered(here: Path) -> None:
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


@pytest.mark.parametrize("options", ["", "--quantize int8", "--dtype bf16", "--logprobs 2"])
def test_a_cpu_completes_without_pytorch_which_takes_a_second_to_import(
    here: Path, options: str
) -> None:
    code = "import sys; from llama_cli.cli import main; "
    code += f"main(['generate', '--prompt', 'The cat', *{options.split()}], standalone_mode=False);"
    code += "sys.exit('torch' in sys.modules)"
    (here / "p.py").write_text(code)
    done = sh(f"{sys.executable} p.py", here)
    assert (done.returncode, len(completions(done.stdout))) == (0, 1)


def test_a_line_that_is_no_prompt_is_named_and_the_rest_goes_on(here: Path) -> None:
    done = sh(
        "printf '{\"id\": 3}\\n\\377\\nThe\\n' | llama generate --max-tokens 1 --report r.json",
        here,
    )
    assert [each["prompt"] for each in completions(done.stdout)] == ["The"]
    assert "llama generate: <stdin>:1: no field 'prompt', and no 'text'\n" in done.stderr
    assert "llama generate: <stdin>:2: neither JSON nor UTF-8 text\n" in done.stderr
    result = json.loads((here / "r.json").read_text())["result"]
    assert (result["in"], result["malformed"]) == (1, 2)
    assert result["model"] == "runs/first/checkpoint-0000001"


def test_what_was_read_before_an_input_ends_early_is_completed(here: Path) -> None:
    import zstandard

    whole, cut = (zstandard.compress(b"The cat\n" * 150) for _ in range(2))
    (here / "cut.zst").write_bytes(whole + cut[:-6])
    done = sh("llama generate cut.zst --max-tokens 1", here)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "llama generate: cut.zst:151: compressed input ends early (truncated?)"
    )
    assert [each["id"] for each in completions(done.stdout)] == [str(n) for n in range(150)]


def test_text_is_the_prompt_and_what_follows(here: Path) -> None:
    done = sh(
        "llama generate -q --prompt The --prompt A --max-tokens 2 --temperature 0 --format text",
        here,
    )
    settings = Settings(max_tokens=2, temperature=0)
    assert done.stdout == f"The{said('0', 'The', settings)}\nA{said('1', 'A', settings)}\n"


def test_a_terminal_shows_the_text_as_it_is_made(here: Path) -> None:
    code, shown = on_terminal("llama generate --prompt 'The cat' --max-tokens 4 --seed 5", here)
    assert code == 0
    assert f"The cat{said('0', 'The cat', Settings(max_tokens=4, seed=5))}\r\n" in shown
    assert '"completion"' not in shown


def test_a_prompt_that_leaves_no_room_is_told_and_kept_in_its_place(here: Path) -> None:
    (here / "long").write_text("The cat opens " * 40 + "\nThe\n")
    done = sh("llama generate long --max-tokens 2", here)
    assert [len(each["tokens"]) for each in completions(done.stdout)] == [0, 2]
    assert "llama generate: prompt '0' leaves no room in 64 tokens\n" in done.stderr


def test_with_line_buffering_each_prompt_is_answered_as_it_comes(here: Path) -> None:
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
        ("--prompt x --threads 100000", 2, "invalid value for '--threads': 100000 is not in the "),
        ("--prompt x --device tpu", 2, "no device 'tpu'; there are auto, cpu, cuda and cuda:N\n"),
        ("--prompt x --dtype bf16 --quantize int8", 2, "--quantize is a dtype of its own; "),
        ("--prompt x --dtype bf16 --deterministic", 2, "--deterministic is in fp32 or int8, not "),
        ("--prompt x --model .", 1, "no checkpoint in .\n  try: llama train"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    here: Path, options: str, code: int, message: str
) -> None:
    done = sh(f"llama generate -q {options}", here)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"llama generate: {message}")


def test_prompts_are_not_awaited_from_a_terminal(here: Path) -> None:
    code, shown = on_terminal("llama generate", here)
    assert code == 2
    assert "Complete prompts." in shown


def test_an_attention_that_there_is_not_is_named(here: Path) -> None:
    done = sh("LLAMA_TRAIN_ATTENTION=flash llama generate --prompt x", here)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "llama generate: attention is one of auto, cuda, sdpa, xformers, reference, not 'flash'",
    )


def test_without_a_model_it_says_what_makes_one(tmp_path: Path) -> None:
    done = sh("llama generate --prompt x", tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "llama generate: no model under ./runs; name one with --model\n"
        "  try: llama train --size 3m --run runs/first\n",
    )


def test_another_tokenizer_beside_the_model_is_an_error(tmp_path: Path) -> None:
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


BODY = {"prompt": "The cat", "max_tokens": 3, "temperature": 0}


def line(name: str, url: str = "/v1/completions", **body: Any) -> str:
    return json.dumps({"custom_id": name, "method": "POST", "url": url, "body": body}) + "\n"


def test_lines_of_openai_batches_are_answered_in_kind(here: Path) -> None:
    talk = [{"role": "user", "content": "Hi"}]
    (here / "batch").write_text(
        line("a", **BODY, n=2, logprobs=2)
        + line("b", prompt=["The", "A"], max_tokens=1)
        + line("c", "/v1/chat/completions", messages=talk, max_tokens=2)
        + "plain\n"
    )
    done = sh("llama generate batch --max-tokens 4", here)
    a, b, c, plain = completions(done.stdout)
    assert [each["custom_id"] for each in (a, b, c)] == ["a", "b", "c"]
    assert a["response"]["body"]["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 6,
        "total_tokens": 9,
    }
    choices = a["response"]["body"]["choices"]
    assert [each["index"] for each in choices] == [0, 1]
    assert choices[0]["text"] == said("a", "The cat", Settings(max_tokens=3, temperature=0))
    assert choices[0]["finish_reason"] == "length"
    assert len(choices[0]["logprobs"]["top_logprobs"][0]) == 2
    assert len(b["response"]["body"]["choices"]) == 2
    assert c["response"]["body"]["choices"][0]["message"]["role"] == "assistant"
    assert len(plain["tokens"]) == 4


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (line("x", "/v1/embeddings", **BODY), "an object for /v1/completions or "),
        (line("x", prompt=3), "field 'prompt' is neither a text, nor token ids, nor"),
        (line("x", prompt="a", max_tokens="9"), "field 'max_tokens' is str, not a number"),
        (line("x", prompt="a", max_tokens=-1), "max_tokens is -1, which is below 0"),
        (line("x", prompt="a", n=0), "n is 0, which is below 1"),
        (line("x", prompt="a", top_p=7), "top_p is 7, which is below 0 or above 1"),
        (line("x", prompt="a", stop=""), "a stop string is empty"),
        (line("x", prompt="a", echo="yes"), "field 'echo' is neither true nor false"),
        (line("x", prompt="a", presence_penalty=1), "field 'presence_penalty' is not supported"),
        (line("x", prompt="a", best_of=3), "field 'best_of' is not supported here"),
        (line("x", prompt="a", temprature=0), "field 'temprature' is not known here"),
        (line("x", **BODY)[:-9], "not a JSON object, though it begins as one: unexpected end of"),
        (line("x", prompt="a", stop=3), "field 'stop' is neither a text nor a list of texts"),
        (line("x", prompt="a", logprobs=True), "the number of logprobs is not a number"),
        (line("x", prompt="a", stream=True), "a batch is not streamed"),
        (line("x", "/v1/chat/completions", messages=[]), "no field 'messages'"),
        (line("x", "/v1/chat/completions", messages=[{"role": "it"}]), "a message has a text and"),
    ],
)
def test_a_line_of_a_batch_that_cannot_be_is_named(bad: str, message: str) -> None:
    how = {"tokenizer": tiny_tokenizer(), "template": Template()}
    with pytest.raises(ValueError, match=message):
        read_call(bad.encode(), settings=Settings(), **how)


def test_a_line_of_a_batch_that_is_refused_is_answered_in_its_place(here: Path) -> None:
    (here / "batch").write_text(
        line("a", **BODY)
        + line("b", **BODY, temprature=0)
        + '{"custom_id": "c", "method": "POST", "url": "/v1/completions"}\n'
        + line("d", prompt="The", max_tokens=1)
    )
    done = sh("llama generate batch --report report", here)
    a, b, c, d = completions(done.stdout)
    assert [each["custom_id"] for each in (a, b, c, d)] == ["a", "b", "c", "d"]
    assert b == {
        "id": "batch_req_b",
        "custom_id": "b",
        "response": {
            "status_code": 400,
            "request_id": "b",
            "body": {
                "error": {
                    "message": "field 'temprature' is not known here",
                    "type": "invalid_request_error",
                    "param": "temprature",
                    "code": None,
                }
            },
        },
        "error": None,
    }
    assert c["response"]["body"]["error"]["message"] == "no field 'prompt', and no 'text'"
    assert (a["response"]["status_code"], d["response"]["status_code"]) == (200, 200)
    assert "llama generate: batch:2: field 'temprature' is not known here\n" in done.stderr
    result = json.loads((here / "report").read_text())["result"]
    assert (done.returncode, result["in"], result["out"], result["malformed"]) == (0, 2, 4, 2)
    texts = sh("llama generate -q batch --format text", here)
    assert len(texts.stdout.splitlines()) == 2


def test_a_refusal_takes_no_number_from_the_lines_after_it(here: Path) -> None:
    (here / "mixed").write_text(line("a", prompt=3) + "The cat\n")
    done = sh("llama generate -q mixed --max-tokens 1", here)
    assert completions(done.stdout)[1]["id"] == "0"


def test_fields_of_a_batch_that_ask_for_nothing_are_taken() -> None:
    neutral = {"max_completion_tokens": None, "presence_penalty": 0, "user": "a", "seed": None}
    how = {"tokenizer": tiny_tokenizer(), "template": Template(), "settings": Settings()}
    call = read_call(line("x", prompt="a", **neutral).encode(), **how)
    assert call.requests[0].settings == Settings()


def test_what_the_assistant_said_before_is_not_taken_for_the_users() -> None:
    talk = [("user", "Hi"), ("assistant", "A cat"), ("user", "Bye")]
    messages = [{"role": role, "content": text} for role, text in talk]
    how = {"tokenizer": tiny_tokenizer(), "template": Template(), "settings": Settings()}
    request = read_call(line("x", "/v1/chat/completions", messages=messages).encode(), **how)
    (asked,) = request.requests
    assert asked.prompt.prompt == "User: Hi\n\nAssistant: A cat User: Bye\n\nAssistant:"


def test_prompts_of_ids_are_neither_empty_nor_short_for_having_no_text(here: Path) -> None:
    (here / "ids").write_text(line("a", prompt=[1, 1]) + "\n" + line("b", prompt=[1] * 64))
    done = sh("llama generate ids --max-tokens 1 > out", here)
    assert "is empty" not in done.stderr
    assert "llama generate: prompt 'b' leaves no room in 64 tokens\n" in done.stderr


def test_many_prompts_that_leave_no_room_are_counted_and_not_all_named(here: Path) -> None:
    (here / "longs").write_text(("The cat opens " * 40 + "\n") * 25)
    done = sh("llama generate longs > out", here)
    assert done.stderr.count("leaves no room") == 20
    assert "llama generate: 25 such prompts in all (-v names each)\n" in done.stderr
    assert sh("llama generate -v longs > out", here).stderr.count("leaves no room") == 25


def test_a_completion_may_be_asked_for_in_all_its_parts(here: Path) -> None:
    options = "--num-samples 2 --logprobs 1 --echo --timings --top-k 5 --min-p 0.01 --seed 3"
    done = sh(f"llama generate -q --prompt 'The cat' --max-tokens 2 {options}", here)
    one, other = completions(done.stdout)
    assert (one["sample"], other["sample"], one["seed"]) == (0, 1, 3)
    assert one["completion"].startswith("The cat")
    assert len(one["tokens"]) == len(one["logprobs"]) == len(one["top_logprobs"]) == 4
    assert 0 < one["timings"]["first_token"] <= one["timings"]["seconds"]


def test_nothing_in_a_record_depends_on_batch_threads_or_order(here: Path) -> None:
    (here / "some").write_text("".join(f'{{"id": "{n}", "prompt": "The {n}"}}\n' for n in range(9)))
    command = "llama generate -q some --max-tokens 8 --deterministic"
    script = f"{command} --threads 1 --batch 1 > a; {command} --threads 2 --batch 5 > b; cmp a b"
    script += "; tac some | llama generate -q --max-tokens 8 --deterministic | tac | cmp a -"
    done = sh(script, here)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_int8_completes(here: Path) -> None:
    done = sh("llama generate -q --prompt The --quantize int8 --max-tokens 3 --threads 1", here)
    assert len(completions(done.stdout)[0]["tokens"]) == 3


def test_an_empty_prompt_begins_a_text_and_is_told(here: Path) -> None:
    done = sh("""echo '{"prompt": ""}' | llama generate --max-tokens 2""", here)
    assert "llama generate: prompt '0' is empty: what follows begins a text\n" in done.stderr
    assert len(completions(done.stdout)[0]["tokens"]) == 2


def test_a_reader_that_leaves_ends_ten_thousand_prompts_in_silence(here: Path) -> None:
    script = "seq 10000 | llama generate -q --max-tokens 1 | head -5; echo ${PIPESTATUS[1]}"
    done = sh(script, here)
    assert len(done.stdout.splitlines()) == 6
    assert (done.stdout.splitlines()[-1], done.stderr) == ("141", "")


TWO = "RANK={} WORLD_SIZE=2 LOCAL_RANK={} MASTER_ADDR=127.0.0.1 MASTER_PORT={} llama generate"


def test_processes_that_share_a_model_write_one_answer(here: Path, unused_port: int) -> None:
    (here / "shared").write_text("The cat\nA table\n")
    alone = sh("llama generate shared --temperature 0 --max-tokens 6", here)
    options = "--device cpu shared --temperature 0 --max-tokens 6"
    first, second = (f"{TWO.format(rank, rank, unused_port)} {options}" for rank in (0, 1))
    done = sh(f"{second} > second & {first} && wait $! && cat second", here)
    assert done.returncode == 0, done.stderr
    assert [each["tokens"] for each in completions(done.stdout)] == [
        each["tokens"] for each in completions(alone.stdout)
    ]
    assert done.stderr.count(", 2 in, 2 out, ") == 1


def test_a_model_that_does_not_divide_is_said(here: Path) -> None:
    done = sh(f"{TWO.format(0, 0, 1).replace('=2', '=3')} --device cpu --prompt x", here)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "llama generate: the 2 heads of keys and values do not divide by 3 processes",
    )


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]

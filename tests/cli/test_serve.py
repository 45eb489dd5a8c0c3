"""`llama generate --serve` as a process: how it begins, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from llama_cli.model.transformer import Transformer, init_weights
from llama_cli.model.weights import TOKENIZER, save_weights
from tests.serving import until
from tests.shell import LLAMA, ROOT, sh
from tests.tiny import CONFIG, tiny_tokenizer

WORDS = re.compile(r"llama generate: serving (\S+) on http://127\.0\.0\.1:(\d+)/v1\n")


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A directory with a model that can go on for a long time."""
    directory = tmp_path_factory.mktemp("serve")
    checkpoint = directory / "runs" / "first" / "checkpoint-0000001"
    checkpoint.mkdir(parents=True)
    tokenizer = tiny_tokenizer()
    model = Transformer(replace(CONFIG, vocab_size=tokenizer.vocab_size, context=20_000))
    init_weights(model, 0)
    save_weights(model, checkpoint)
    (checkpoint / TOKENIZER).write_bytes(tokenizer.model)
    return directory


@contextmanager
def served(here: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [*LLAMA.split(), "generate", "--serve", "0", "--threads", "1", *options]
    env = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    env |= {k: v for k, v in os.environ.items() if k.startswith(("COVERAGE", "COV_"))}
    with subprocess.Popen(command, cwd=here, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            while not (found := WORDS.fullmatch(process.stderr.readline())):
                assert process.poll() is None
            assert found[1] == "first/checkpoint-0000001"
            yield process, int(found[2])
        finally:
            process.kill()


def ask(port: int, **body: object) -> socket.socket:
    data = json.dumps({"prompt": "The", "temperature": 0, **body}).encode()
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    connection.sendall(head.encode() + data)
    return connection


def read_until(connection: socket.socket, end: bytes) -> bytes:
    found = b""
    while end not in found:
        data = connection.recv(65536)
        assert data, found[-200:]
        found += data
    return found


def test_sigterm_finishes_what_was_begun_and_the_exit_is_0(here):
    with served(here, "--report", "r.json") as (process, port):
        with ask(port, max_tokens=1000, stream=True) as connection:
            found = read_until(connection, b"data: ")
            process.send_signal(signal.SIGTERM)
            refused = False
            while b"[DONE]" not in found:
                found += read_until(connection, b"data: ")
                refused = refused or not listens(port)
            assert refused  # while it still answered
        assert found.count(b'"finish_reason":"') == 1
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert "1 in, 1 out" in process.stderr.read()
    assert json.loads((here / "r.json").read_text())["result"]["completion_tokens"] == 1000


def listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("signals", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT,)])
def test_a_second_signal_or_ctrl_c_ends_it_at_once_by_that_signal(here, signals):
    with served(here) as (process, port), ask(port, max_tokens=19_000, stream=True) as connection:
        read_until(connection, b"data: ")
        *first, last = signals
        for number in first:
            process.send_signal(number)
            until(lambda: not listens(port))
        process.send_signal(last)
        assert process.wait(20) == -last
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("--serve here", 2, "--serve takes HOST:PORT or PORT, not 'here'\n  try: llama generate "),
        ("--serve 1:70000", 2, "--serve takes HOST:PORT or PORT, not '1:70000'"),
        ("--serve 0 --prompt x", 2, "--serve stands alone, without FILEs, --prompt, --format, "),
        ("--serve 0 -o x", 2, "--serve stands alone"),
        ("--token-file x", 2, "--token-file is for --serve\n  try: llama generate "),
        ("--max-body 9", 2, "--max-body is for --serve\n"),
        ("--request-timeout 9", 2, "--request-timeout is for --serve\n"),
        ("--serve 0.0.0.0:0", 1, "0.0.0.0 can be reached from other machines, so clients need a "),
        ("--serve '[::]:0'", 1, ":: can be reached from other machines"),
        ("--serve 0 --token-file none", 1, "none: No such file or directory\n"),
        ("--serve nowhere.invalid:0", 1, "nowhere.invalid:0: "),
    ],
)
def test_what_cannot_be_served_is_one_clear_line(here, options, code, message):
    done = sh(f"llama generate --model runs/first {options}", here)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"llama generate: {message}")


def test_without_the_libraries_it_says_what_installs_them(here):
    (here / "absent").mkdir()
    (here / "absent" / "uvicorn.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'uvicorn'\", name='uvicorn')"
    )
    env = {"PYTHONPATH": f"{here}/absent:{ROOT}"}
    done = sh("llama generate -q --serve 0", here, env=env)
    assert (done.returncode, done.stderr) == (
        1,
        "llama generate: --serve needs uvicorn\n  try: pip install 'llama[serve]'\n",
    )

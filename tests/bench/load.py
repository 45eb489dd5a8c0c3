"""Many clients at once on `llama generate --serve`, half of which leave in mid-answer.

    python -m tests.bench.load --clients 200 --seconds 60

Every answer that is read to its end is compared with what the engine gives for that prompt
without a server. Prints what the server holds (memory, open files, threads, rows) as time goes
by, and at the end what came back. It fails if an answer was lost or another's, or if rows,
files or threads are left over.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from llama_cli.inference.backend import take_over
from llama_cli.inference.engine import Engine, Request, Settings
from llama_cli.model.transformer import Transformer, init_weights
from llama_cli.model.weights import TOKENIZER, save_weights
from llama_cli.records import Prompt
from tests.shell import ROOT
from tests.tiny import CONFIG, run_on, tiny_tokenizer

HEAD = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: "
WORDS = ("cat", "table", "garden", "river", "question", "answer", "bottle", "window")


@dataclass
class Result:
    """What came back."""

    whole: int = 0  # answers that were read to their end
    left: int = 0  # clients that went away before
    wrong: list[str] = field(default_factory=list)  # what was neither
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # of whole answers


def model(context: int) -> Transformer:
    """Draw a tiny model with a long context."""
    run_on(1)  # as the server; attention on two adds in another order
    made = Transformer(replace(CONFIG, vocab_size=tiny_tokenizer().vocab_size, context=context))
    init_weights(made, 0)
    for weight in made.parameters():
        if weight.dim() > 1:
            weight.data.mul_(10)
    return made


def expected(engine: Engine, count: int, tokens: int) -> dict[str, str]:
    """Give prompts, and what the engine makes of each, in a process of its own."""
    texts = [f"The {word} opens the {n}" for n in range(count // len(WORDS) + 1) for word in WORDS]
    settings = Settings(max_tokens=tokens, seed=1)
    requests = [Request(Prompt("0", text), settings) for text in texts[:count]]
    return {each.prompt: each.completion for each in engine.answer(requests, batch=16, ahead=count)}


async def load(
    port: int, answers: dict[str, str], *, clients: int, seconds: float, tokens: int
) -> Result:
    """Ask until the time is over; what was begun by then is read to its end."""
    result, end = Result(), time.monotonic() + seconds
    numbers = itertools.count()
    await asyncio.gather(
        *(_client(port, answers, numbers, end, tokens, result) for _ in range(clients))
    )
    return result


async def _client(
    port: int,
    answers: dict[str, str],
    numbers: itertools.count[int],
    end: float,
    tokens: int,
    result: Result,
) -> None:
    while time.monotonic() < end:
        number = next(numbers)
        choose = random.Random(number)
        text = choose.choice(list(answers))
        stream, leaves = choose.random() < 0.5, number % 2 == 0
        began = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            body = {"prompt": text, "max_tokens": tokens, "seed": 1, "stream": stream}
            data = json.dumps(body)
            writer.write(f"{HEAD}{len(data)}\r\n\r\n{data}".encode())
            if leaves:
                await _leave(reader, choose, stream=stream)
                result.left += 1
            else:
                found = await asyncio.wait_for(reader.read(), 300)
                _judge(found, answers[text], result, stream=stream)
                result.seconds.append(time.monotonic() - began)
            writer.transport.abort() if leaves else writer.close()
        except OSError as error:
            result.wrong.append(repr(error))


async def _leave(reader: asyncio.StreamReader, choose: random.Random, *, stream: bool) -> None:
    """Read some of an answer, or wait a little."""
    if not stream:
        await asyncio.sleep(choose.random() * 0.5)
        return
    for _ in range(choose.randrange(1, 20)):
        await reader.readline()


def _judge(found: bytes, text: str, result: Result, *, stream: bool) -> None:
    head, _, rest = found.partition(b"\r\n\r\n")
    status = int(head[9:12] or 0)
    result.statuses[status] += 1
    if status != 200:
        result.wrong.append(found[:300].decode("utf-8", "replace"))
        return
    if stream:
        parts = re.findall(rb"data: ({.*})", rest)
        said = "".join(json.loads(part)["choices"][0]["text"] for part in parts)
        whole = b"data: [DONE]" in rest
    else:
        said, whole = json.loads(rest)["choices"][0]["text"], True
    if whole and said == text:
        result.whole += 1
    else:
        result.wrong.append(f"{'' if whole else 'cut short: '}{said!r}, not {text!r}")


@dataclass(frozen=True)
class Held:
    """What a process holds."""

    rss: int  # bytes
    files: int
    threads: int


def held(pid: int) -> Held:
    """Look into /proc."""
    status = Path(f"/proc/{pid}/status").read_text()
    number = {name: int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "Threads")}
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Held(number["VmRSS"] * 1024, files, number["Threads"])


async def rows(port: int) -> tuple[int, int]:
    """Ask for the rows that run and wait."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    found = dict(re.findall(r"^llama_rows_(running|waiting) (\d+)", text, re.MULTILINE))
    return int(found["running"]), int(found["waiting"])


async def watch(port: int, pid: int, every: float, tell: Callable[[str], None]) -> None:
    """Say what the server holds, again and again."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(every)
        now, (running, waiting) = held(pid), await rows(port)
        tell(
            f"{time.monotonic() - began:5.0f} s  {now.rss / 1e6:7.1f} MB  {now.files:4} files  "
            f"{now.threads:3} threads  {running:3} running  {waiting:3} waiting"
        )


async def measure(port: int, pid: int, answers: dict[str, str], options: argparse.Namespace) -> int:
    """Load the server and print what came of it; 0 if all was well."""
    await load(port, answers, clients=20, seconds=3, tokens=options.tokens)
    await asyncio.sleep(2)
    before = held(pid)
    print(f"warm   {before.rss / 1e6:7.1f} MB  {before.files:4} files  {before.threads:3} threads")
    watching = asyncio.create_task(watch(port, pid, options.seconds / 12, print))
    asked = {"clients": options.clients, "seconds": options.seconds, "tokens": options.tokens}
    result = await load(port, answers, **asked)
    watching.cancel()
    await asyncio.sleep(3)
    after, (running, waiting) = held(pid), await rows(port)
    print(f"after  {after.rss / 1e6:7.1f} MB  {after.files:4} files  {after.threads:3} threads")
    median = sorted(result.seconds)[len(result.seconds) // 2]
    print(
        f"{result.whole:,} answers whole and right (half within {median:.2f} s), "
        f"{result.left:,} clients left in mid-answer, {len(result.wrong):,} wrong, "
        f"{running + waiting} rows left over"
    )
    for wrong in result.wrong[:5]:
        print(wrong)
    leaks = (after.files, after.threads) != (before.files, before.threads)
    return int(bool(result.wrong) or leaks or running + waiting > 0)


def main() -> int:
    """Start a server, and load it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tokens", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "model"
        directory.mkdir()
        made = model(options.tokens + 64)
        save_weights(made, directory)
        (directory / TOKENIZER).write_bytes(tiny_tokenizer().model)
        answers = expected(Engine(take_over(made), tiny_tokenizer()), 64, options.tokens)
        command = [sys.executable, "-m", "llama_cli", "generate", "--model", str(directory)]
        command += ["--serve", "0", "--threads", "1", "--max-waiting", "1000"]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:
            while not (found := re.search(r":(\d+)/v1$", server.stderr.readline())):
                pass
            try:
                failed = asyncio.run(measure(int(found[1]), server.pid, answers, options))
            finally:
                server.send_signal(signal.SIGTERM)
            print(server.stderr.read(), end="")
        print(f"the server ended with {server.returncode}")
        return failed or server.returncode


if __name__ == "__main__":
    sys.exit(main())

"""What a server takes at most, whom it refuses, and what it does when a client goes away."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llama_cli.errors import LlamaError
from llama_cli.inference.backend import take_over
from llama_cli.inference.batch import Batch
from llama_cli.inference.engine import Engine
from llama_cli.serving import calls, exchange
from llama_cli.serving.address import bind
from llama_cli.serving.bearer import read_tokens
from llama_cli.serving.calls import Reader
from llama_cli.serving.limits import Limits
from llama_cli.serving.worker import Worker
from tests.bench import load
from tests.serving import Held, Running, serving, until
from tests.tiny import tiny_model, tiny_tokenizer

COMPLETIONS = "/v1/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(limits=Limits(body=2000, prompt=20, waiting=4)) as running:
        yield running


def error(answer: tuple[int, dict[str, str], str]) -> tuple[int, str]:
    """Give the status and the message of an error in OpenAI's form."""
    status, headers, text = answer
    found = json.loads(text)["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert headers["content-type"] == "application/json"
    return status, found["message"]


def head(length: int | None = None, **headers: str) -> bytes:
    """Give the head of a request."""
    lines = [f"POST {COMPLETIONS} HTTP/1.1", "Host: localhost"]
    lines += [f"Content-Length: {length}"] if length is not None else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def request(**body: object) -> bytes:
    data = json.dumps(body).encode()
    return head(len(data)) + data


def read_all(connection: socket.socket) -> bytes:
    found = b""
    while data := connection.recv(65536):
        found += data
    return found


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "the body is not JSON"),
        (b'{"prompt": "\xff"}', 400, "the body is not JSON"),
        ([], 400, "the body is not a JSON object"),
        ({"prompt": 3}, 400, "field 'prompt' is neither a text, nor token ids, nor a list of"),
        ({"prompt": []}, 400, "field 'prompt' is neither"),
        ({"prompt": [[]]}, 400, "field 'prompt' is neither"),
        ({"prompt": [True]}, 400, "field 'prompt' is neither"),
        ({"prompt": [1, 400]}, 400, "field 'prompt' has an id outside 0 to 399"),
        ({"prompt": [1, -1]}, 400, "field 'prompt' has an id outside 0 to 399"),
        ({"prompt": "a", "n": 9}, 400, "9 completions asked for, at most 8"),
        ({"prompt": ["a"] * 9}, 400, "9 completions asked for, at most 8"),
        ({"prompt": "a", "n": 10**12}, 400, "1,000,000,000,000 completions asked for"),
        ({"prompt": "a", "n": 0}, 400, "n is 0, which is below 1"),
        ({"prompt": "a", "temperature": "hot"}, 400, "field 'temperature' is str, not a number"),
        ({"prompt": "a", "seed": 1.5}, 400, "field 'seed' is float, not a number"),
        (b'{"prompt": "a", "temperature": 1e999}', 400, ""),
        ({"prompt": "a", "logprobs": 101}, 400, "at most 100 logprobs"),
        ({"prompt": "a", "stop": [""]}, 400, "a stop string is empty"),
        ({"prompt": "a", "echo": "yes"}, 400, "field 'echo' is neither true nor false"),
        ({"prompt": "a", "stop": ["a" * 257]}, 400, "at most 16 stop strings, of at most 256"),
        ({"prompt": "a", "stop": ["a"] * 17}, 400, "at most 16 stop strings"),
        ({"prompt": "a", "stream": "yes"}, 400, "field 'stream' is neither true nor false"),
        ({"prompt": "a", "stream_options": {}}, 400, "field 'stream_options' is an object, and"),
        ({"prompt": "a", "best_of": 2}, 400, "field 'best_of' is not supported here"),
        ({"prompt": "a", "presence_penalty": 0.5}, 400, "field 'presence_penalty' is not support"),
        ({"prompt": "a", "temprature": 1}, 400, "field 'temprature' is not known here"),
        ({"prompt": "a", "model": "gpt"}, 404, "no model 'gpt' here; there is 'tiny'"),
        ({"prompt": "1" * 21}, 400, "a prompt of 23 tokens is longer than the 20 tokens taken"),
        ({"prompt": [5] * 21}, 400, "a prompt of 21 tokens is longer than the 20 tokens taken"),
        ({"prompt": "a" * 500}, 400, "a prompt is longer than the 20 tokens taken here"),
        ({"prompt": [5] * 9, "max_tokens": 56}, 400, "a prompt of 9 tokens and a completion of 56"),
        ({"prompt": "a" * 2000}, 413, "a body of more than 2,000 bytes"),
    ],
)
def test_what_cannot_be_answered_is_an_error_in_openais_form(
    server: Running, body: object, status: int, message: str
) -> None:
    found, said = error(server.post(body))
    assert (found, said[: len(message)]) == (status, message)


def test_logprobs_are_limited_over_all_tokens_of_a_request(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "TOLD", 2 * (3 + 5) * 4)
    body = {"prompt": [5, 6, 7], "max_tokens": 5, "n": 2, "logprobs": 4, "echo": True}
    assert server.post(body)[0] == 200
    refused = (400, "at most 64 logprobs in all; 80 asked")
    assert error(server.post({**body, "logprobs": 5})) == refused


def test_fields_that_ask_for_nothing_are_taken(server: Running) -> None:
    body = {"prompt": "a", "max_tokens": 1, "user": "me", "best_of": 1, "suffix": None}
    neutral = {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}}
    assert server.post({**body, **neutral})[0] == 200


@pytest.mark.parametrize("n", [None, 2])
def test_best_of_all_that_are_asked_for_asks_for_nothing(server: Running, n: int | None) -> None:
    assert server.post({"prompt": "a", "max_tokens": 1, "n": n, "best_of": n or 1})[0] == 200


def test_a_prompt_as_long_as_the_context_is_scored(server: Running) -> None:
    body = {"prompt": [5] * 20, "max_tokens": 44, "temperature": 0}
    assert json.loads(server.post(body)[2])["usage"]["total_tokens"] <= 64


def test_a_page_that_there_is_not_and_a_method_are_told(server: Running) -> None:
    assert error(server.ask("GET", "/v1/nothing"))[0] == 404
    status, headers, _ = answer = server.ask("GET", COMPLETIONS)
    assert (status, headers["allow"]) == (405, "POST")
    assert error(answer)[1] == "GET /v1/completions: method not allowed"


# -- bodies --


def test_a_body_that_says_it_is_too_long_is_refused_unread(server: Running) -> None:
    with server.connect(head(10**8)) as connection:  # and nothing more is sent
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_body_in_chunks_is_refused_where_it_grows_too_long_and_read_no_further(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "LINGER", 0.1)
    chunk = b"%x\r\n%s\r\n" % (10_000, b"a" * 10_000)
    with server.connect(head(Transfer_Encoding="chunked") + chunk * 2) as connection:
        found = read_all(connection)  # it ends, though the body does not
    assert found.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in found


def test_a_hundred_megabytes_are_refused_and_the_client_can_read_why(server: Running) -> None:
    assert error(server.post(b" " * 10**8)) == (413, "a body of more than 2,000 bytes")


def test_a_body_that_is_packed_is_refused(server: Running) -> None:
    assert error(server.post(b"{}", Content_Encoding="gzip"))[0] == 415


def test_a_client_that_is_slow_to_send_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "LINGER", 0.1)
    with serving(limits=Limits(patience=0.2)) as server:
        with server.connect(b"POST /v1/comp") as connection:
            assert connection.recv(1) == b""
        with server.connect(head(10)) as connection:
            assert read_all(connection).startswith(b"HTTP/1.1 408 ")
        with server.connect(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
            while not connection.recv(65536).endswith(b"}"):
                pass
            connection.sendall(b"GET /hea")  # the second request of the connection
            assert connection.recv(1) == b""


def test_a_client_that_does_not_read_is_dropped_and_its_rows_with_it() -> None:
    with serving(limits=Limits(patience=0.2), batch=8) as server:
        body = {"prompt": [5] * 30, "max_tokens": 34, "stream": True, "n": 8, "logprobs": 100}
        server.bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # and of connections
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(request(**body, echo=True))
            until(lambda: server.service.requests == 1)
            until(lambda: server.service.requests == 0)
            until(lambda: not any(server.held))
            assert b"[DONE]" not in read_all(connection)


# -- who may ask --


def test_without_tokens_only_pages_and_names_of_this_machine_may_ask(server: Running) -> None:
    body = {"prompt": "a", "max_tokens": 1}
    assert server.post(body, Origin="http://localhost:3000")[0] == 200
    refused = (403, "without --token-file only this machine may ask")
    assert error(server.post(body, Origin="https://example.org")) == refused
    assert error(server.post(body, Origin="null")) == refused
    assert error(server.post(body, Host="rebound.example.org:80")) == refused
    assert error(server.post(body, Host="[::1")) == refused
    assert server.post(body, Host="[::1]:80")[0] == 200


def test_with_tokens_all_but_health_wants_one() -> None:
    with serving(tokens=("secret",)) as server:
        status, headers, _ = answer = server.ask("GET", "/metrics")
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert error(answer)[1] == "no token; send 'Authorization: Bearer TOKEN'"
        assert error(server.post({}, Authorization="Basic secret"))[0] == 401
        assert error(server.post(b" " * 10**7, Authorization="Bearer no"))[0] == 401
        assert server.ask("GET", "/metrics", Authorization="Bearer secret")[0] == 200
        assert server.ask("GET", "/health")[0] == 200


def test_a_file_has_a_token_a_line(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(b"first\n\n second \r\n")
    assert read_tokens(path) == ("first", "second")
    for bad, message in ((b"\n", "no token"), (b"a\nb c\n", "2: a token is of ASCII")):
        path.write_bytes(bad)
        with pytest.raises(LlamaError, match=message):
            read_tokens(path)


def test_an_address_of_other_machines_wants_tokens() -> None:
    with pytest.raises(LlamaError, match=r"0\.0\.0\.0 can be reached from other machines"):
        bind("0.0.0.0", 0, anywhere=False)
    bind("0.0.0.0", 0, anywhere=True).close()
    with bind("localhost", 0, anywhere=False) as bound:
        port = bound.getsockname()[1]
        bound.listen()
        with pytest.raises(LlamaError, match=f"localhost:{port}: address already in use"):
            bind("localhost", port, anywhere=False)


# -- load and loss --


def test_more_than_may_wait_are_asked_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    with serving(limits=Limits(waiting=1), batch=1) as server:
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(server.post({"prompt": "a", "seed": 1})))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        until(lambda: server.service.rows == 2)
        status, headers, _ = answer = server.post({"prompt": "a"})
        assert (status, headers["retry-after"]) == (429, "1")
        assert error(answer)[1] == "2 requests are under way; none more is taken"
        held.go.set()
        for thread in threads:
            thread.join(30)
        assert [status for status, _, _ in found] == [200, 200]
        assert found[0][2][60:] == found[1][2][60:]  # all but the id


def test_places_are_counted_by_completions(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    with serving(limits=Limits(waiting=2), batch=1) as server:
        with server.connect(request(prompt="a", n=2)):
            until(lambda: server.service.rows == 2)
            answer = server.post({"prompt": "a", "n": 2})
            assert error(answer) == (429, "2 completions are under way, of 3 taken")
            held.go.set()
        until(lambda: server.service.rows == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_rows_at_once(
    monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    held = Held(monkeypatch)
    with serving(batch=2) as server:
        connection = server.connect(request(prompt="The cat", n=5, stream=stream, max_tokens=40))
        until(lambda: server.service.worker.running == 2)
        connection.close()
        until(lambda: server.service.rows == 0)
        made = server.service.worker.made
        held.go.set()
        until(lambda: server.service.worker.running == server.service.worker.waiting == 0)
        assert server.service.worker.made <= made + 2  # the step that was under way
        until(lambda: server.service.metrics.requests[COMPLETIONS, 499] == 1)
        assert server.post({"prompt": "a", "max_tokens": 1})[0] == 200


def test_an_answer_that_takes_too_long_is_an_error_and_no_shorter_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = Held(monkeypatch)
    with serving(limits=Limits(seconds=0.2)) as server:
        status, headers, _ = answer = server.post({"prompt": "a"})
        message = "no whole answer within 0.2 seconds; ask for fewer tokens"
        assert error(answer) == (504, message)
        assert headers["x-should-retry"] == "false"
        status, _, text = server.post({"prompt": "a", "stream": True})
        assert status == 200
        *_, last = text.strip().split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error"]["message"] == message
        held.go.set()
        until(lambda: server.service.worker.running == 0)


def test_a_step_that_fails_is_told_to_those_in_it_and_the_server_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step, failures = Batch.step, ["too little memory"]

    def fail_once(batch: Batch, waiting: Any) -> None:
        if failures:
            raise MemoryError(failures.pop())
        step(batch, waiting)

    monkeypatch.setattr(Batch, "step", fail_once)
    with serving() as server:
        answer = server.post({"prompt": "a"})
        assert error(answer) == (500, "the model failed: MemoryError: too little memory")
        assert server.said == ["1 completions failed: MemoryError: too little memory"]
        assert server.post({"prompt": "a", "max_tokens": 1})[0] == 200
        assert server.ask("GET", "/health")[0] == 200


def test_a_row_without_numbers_fails_alone() -> None:
    model = tiny_model()
    model.tok_embeddings.weight.data[tiny_tokenizer().encode("The cat opens")[-1]] = math.nan
    engine = Engine(take_over(model), tiny_tokenizer())
    with serving(engine=engine) as server:
        asked = [{"prompt": text, "max_tokens": 20} for text in ("A river", "The cat opens")]
        with ThreadPoolExecutor(2) as clients:
            good, bad = clients.map(server.post, asked)
        assert good[0] == 200
        assert error(bad)[0] == 500
        assert "the model gives no numbers" in error(bad)[1]


def test_many_clients_half_of_which_leave_get_their_own_answers_and_nothing_is_left_over() -> None:
    engine = Engine(take_over(load.model(context=80)), tiny_tokenizer())
    answers = load.expected(engine, 16, 40)
    with serving(engine=engine, batch=8) as server:
        files = len(list(Path("/proc/self/fd").iterdir()))
        asked = {"clients": 40, "seconds": 1.5, "tokens": 40}
        result = asyncio.run(load.load(server.port, answers, **asked))
        until(lambda: not any(server.held))
        assert len(list(Path("/proc/self/fd").iterdir())) <= files  # others' may close meanwhile
    assert result.wrong == []
    assert result.whole > 20
    assert result.left > 20


def test_a_bug_between_two_steps_is_told_and_the_server_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    news, bugs = Worker._news, ["a bug"]

    def fail_once(worker: Worker, track: Any) -> Any:
        if bugs:
            raise KeyError(bugs.pop())
        return news(worker, track)

    monkeypatch.setattr(Worker, "_news", fail_once)
    with serving() as server:
        answer = server.post({"prompt": "a", "stream": True})
        assert "the model failed: KeyError: 'a bug'" in answer[2]
        assert server.post({"prompt": "a", "max_tokens": 0})[0] == 200
        assert server.post({"prompt": "a", "max_tokens": 1})[0] == 200


def test_a_bug_of_a_page_is_said_by_the_server_and_not_shown_to_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Reader, "read", lambda *_, **__: 1 // 0)
    with serving() as server:
        assert error(server.post({})) == (500, "a bug of ours; the server has said which")
        until(lambda: bool(server.said))
        assert server.said[0].startswith("exception in asgi application: ZeroDivisionError(")
        assert server.service.metrics.requests[COMPLETIONS, 500] == 1


def test_metrics_count_what_was_done() -> None:
    with serving() as server:
        server.post({"prompt": "The cat", "max_tokens": 5, "temperature": 0, "n": 2})
        server.post({"prompt": 3})
        server.ask("GET", "/a")
        status, headers, text = server.ask("GET", "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    counted = {
        'llama_requests_total{path="/v1/completions",status="200"}': "1",
        'llama_requests_total{path="/v1/completions",status="400"}': "1",
        'llama_requests_total{path="other",status="404"}': "1",
        "llama_prompt_tokens_total": "3",
        "llama_completion_tokens_total": "10",
        "llama_rows_running": "0",
        "llama_rows_waiting": "0",
        "llama_first_token_seconds_count": "2",
        'llama_first_token_seconds_bucket{le="+Inf"}': "2",
    }
    assert {name: lines[name] for name in counted} == counted


def test_the_event_loop_answers_while_the_model_works(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    with serving() as server, server.connect(request(prompt="a")):
        until(lambda: server.service.worker.running == 1)
        began = time.monotonic()
        assert server.ask("GET", "/health")[0] == 200
        assert time.monotonic() - began < 5  # it waits for nothing
        held.go.set()

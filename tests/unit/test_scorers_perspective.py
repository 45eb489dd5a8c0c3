"""PerspectiveAPI over its protocol, against a server of our own that speaks its JSON."""

import http.client
import json
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llama_cli.errors import LlamaError, NotReadyError, UsageError
from llama_cli.evaluation.scorers.choose import choose
from llama_cli.evaluation.scorers.perspective import Perspective

KEY = "AIza-secret"
BAD_KEY = "API key not valid. Please pass a valid API key."


class Service:
    """Scores a text by its length; `troubles` are what it answers first, in order."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, dict[str, Any]]] = []
        self.troubles: list[tuple[int, dict[str, str]]] = []
        self.asks: Counter[str] = Counter()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.asked.append((self.path, self.headers["X-Goog-Api-Key"], body))
                status, said, headers = service.answer(self.headers["X-Goog-Api-Key"], body)
                data = json.dumps(said).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(
        self, key: str | None, body: dict[str, Any]
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        if self.troubles:
            code, headers = self.troubles.pop(0)
            return code, {"error": {"code": code, "message": "Quota exceeded"}}, headers
        if key != KEY:
            return 400, {"error": {"code": 400, "message": BAD_KEY}}, {}
        text = body["comment"]["text"]
        self.asks[text] += 1
        if len(text) > 100:
            return 400, {"error": {"code": 400, "message": "Comment text too long."}}, {}
        value = {"value": len(text) / 100, "type": "PROBABILITY"}
        scores = {name: {"summaryScore": value} for name in body["requestedAttributes"]}
        return 200, {"attributeScores": scores, "languages": body["languages"]}, {}


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    service = Service()
    yield service
    service.server.shutdown()
    service.server.server_close()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    return path


def client(service: Service, key_file: Path, **settings: Any) -> Perspective:
    settings = {"quota": 1e6, "wait": lambda seconds: None, **settings}
    return Perspective(key_file, service.url, **settings)


def test_texts_are_scored_in_their_order_whatever_is_answered_first(
    service: Service, key_file: Path
) -> None:
    texts = ["x" * length for length in (30, 7, 50, 1, 7)]
    assert client(service, key_file)(texts) == [0.3, 0.07, 0.5, 0.01, 0.07]
    assert service.asks["x" * 7] == 1


def test_a_request_is_what_the_service_documents(service: Service, key_file: Path) -> None:
    client(service, key_file, languages=("en", "de"))(["Hello"])
    assert service.asked == [
        (
            "/v1alpha1/comments:analyze",
            KEY,
            {
                "comment": {"text": "Hello"},
                "languages": ["en", "de"],
                "requestedAttributes": {"TOXICITY": {}},
                "doNotStore": True,
            },
        )
    ]


def test_a_text_without_a_word_is_not_asked_for(service: Service, key_file: Path) -> None:
    assert client(service, key_file)(["", " \n"]) == [0.0, 0.0]
    assert service.asked == []


@pytest.mark.parametrize("code", [429, 500, 503])
def test_what_passes_is_tried_again_after_waits_that_double(
    service: Service, key_file: Path, code: int
) -> None:
    service.troubles = [(code, {})] * 3
    waits = []
    assert client(service, key_file, wait=waits.append)(["x" * 20]) == [0.2]
    longer = [wait for wait in waits if wait >= 1]  # the others are turns
    assert [base <= wait <= 1.5 * base for wait, base in zip(longer, (1, 2, 4), strict=True)] == [
        True
    ] * 3


def test_an_answer_that_is_cut_is_asked_for_again(
    service: Service, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = urllib.request.urlopen, [http.client.IncompleteRead(b"{")]

    def once(*arguments: Any, **options: Any) -> Any:
        if cut:
            raise cut.pop()
        return whole(*arguments, **options)

    monkeypatch.setattr(urllib.request, "urlopen", once)
    assert client(service, key_file)(["x" * 20]) == [0.2]


def test_a_wait_that_is_asked_for_is_kept(service: Service, key_file: Path) -> None:
    service.troubles = [(429, {"Retry-After": "17"})]
    waits = []
    client(service, key_file, wait=waits.append)(["x"])
    assert [17 <= wait <= 25.5 for wait in waits if wait >= 1] == [True]


def test_a_service_that_never_answers_is_told_with_its_words_after_eight_tries(
    service: Service, key_file: Path
) -> None:
    service.troubles = [(503, {})] * 9
    with pytest.raises(LlamaError, match=r"did not answer in 8 tries: 503 Quota exceeded"):
        client(service, key_file)(["x"])
    assert len(service.asked) == 8


def gone(service: Service) -> None:
    service.server.shutdown()
    service.server.server_close()


def test_a_service_that_is_gone_is_told_after_three_tries(service: Service, key_file: Path) -> None:
    gone(service)
    waits = []
    with pytest.raises(LlamaError, match=r"in 3 tries: .*Connection refused") as caught:
        client(service, key_file, wait=waits.append)(["x"])
    assert "31 December 2026" in (caught.value.hint or "")
    assert sum(waits) < 5  # seconds


def test_a_service_that_goes_after_it_has_answered_is_waited_for(
    service: Service, key_file: Path
) -> None:
    asked = []

    def going(seconds: float) -> None:
        asked.append(seconds)
        if len(asked) == 1:
            gone(service)

    service.troubles = [(503, {})]
    scorer = client(service, key_file, wait=going)
    with pytest.raises(LlamaError, match=r"in 8 tries: .*Connection refused"):
        scorer(["x"])


@pytest.mark.parametrize(
    ("cause", "tries"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "1 try"),
        (ssl.SSLCertVerificationError("self-signed certificate"), "1 try"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), "3 tries"),
        (TimeoutError("timed out"), "3 tries"),
    ],
)
def test_what_stays_as_it_is_is_not_asked_again(
    service: Service, key_file: Path, monkeypatch: pytest.MonkeyPatch, cause: Exception, tries: str
) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise urllib.error.URLError(cause)

    monkeypatch.setattr(urllib.request, "urlopen", fails)
    with pytest.raises(LlamaError, match=f"did not answer in {tries}: "):
        client(service, key_file)(["x"])


def test_a_wait_is_told_once_with_its_reason(service: Service, key_file: Path) -> None:
    service.troubles = [(503, {})] * 4
    words = []
    client(service, key_file, say=words.append)(["x", "xx", "xxx"])
    assert words == [f"{service.url}: 503 Quota exceeded; asking again, up to 8 times"]


def test_a_quota_spreads_requests_over_time(service: Service, key_file: Path) -> None:
    waits = []
    client(service, key_file, quota=10, wait=waits.append)(["x" * n for n in range(1, 6)])
    assert len(waits) == 4
    assert max(waits) == pytest.approx(0.4, abs=0.05)  # the fifth comes four tenths after the first


def test_a_bad_key_is_named_by_its_file_and_never_shown(service: Service, key_file: Path) -> None:
    key_file.write_text("AIza-wrong")
    with pytest.raises(NotReadyError, match=r"refuses the key in .*key: 400 API key not") as caught:
        client(service, key_file)(["x"])
    assert "AIza-wrong" not in f"{caught.value} {caught.value.hint} {client(service, key_file)!r}"


@pytest.mark.parametrize("held", ["", "two words", "a\nb"])
def test_a_file_that_holds_no_key_is_told_before_anything_is_sent(
    service: Service, key_file: Path, held: str
) -> None:
    key_file.write_text(held)
    with pytest.raises(NotReadyError, match="holds no key"):
        client(service, key_file)(["x"])
    assert service.asked == []


def test_a_missing_key_says_that_there_are_no_new_ones(service: Service, tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="no key of PerspectiveAPI at") as caught:
        client(service, tmp_path / "none")(["x"])
    assert "31 December 2026" in (caught.value.hint or "")


def test_a_text_that_is_refused_is_told_in_the_words_of_the_service(
    service: Service, key_file: Path
) -> None:
    with pytest.raises(LlamaError, match=r"400 Comment text too long\."):
        client(service, key_file)(["x" * 101])


def test_what_was_answered_is_not_asked_again(
    service: Service, key_file: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "scores.jsonl"
    texts = ["x" * length for length in (3, 4, 101)]
    with pytest.raises(LlamaError, match="too long"):
        client(service, key_file, cache=cache, quota=1e6)(texts)
    held = cache.read_bytes().split()
    cache.write_bytes(b"\n".join(held)[:-4] if held else b"")  # killed in the middle of a line
    again = client(service, key_file, cache=cache)
    assert again(texts[:2]) == [0.03, 0.04]
    before = len(service.asked)
    assert again(texts[:2]) == [0.03, 0.04]
    assert len(service.asked) == before
    assert KEY not in cache.read_text()


def test_answers_of_one_attribute_are_not_taken_for_those_of_another(
    service: Service, key_file: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "scores.jsonl"
    client(service, key_file, cache=cache)(["x"])
    client(service, key_file, cache=cache, attribute="INSULT")(["x"])
    assert [list(body["requestedAttributes"]) for *_, body in service.asked] == [
        ["TOXICITY"],
        ["INSULT"],
    ]


def test_settings_follow_the_key_file(key_file: Path, tmp_path: Path) -> None:
    spec = f"perspective:{key_file},quota=10,languages=en+de,attribute=INSULT,cache={tmp_path}/c"
    scorer = choose(spec)
    assert (scorer.quota, scorer.cache, scorer.url) == (
        10.0,
        tmp_path / "c",
        "https://commentanalyzer.googleapis.com",
    )
    assert scorer.name == "perspective:INSULT:en+de"
    assert choose(f"perspective:{key_file}").name == "perspective"


@pytest.mark.parametrize(
    "setting",
    [
        *(
            "quota=0",
            "quota=x",
            "qouta=1",
            "url=file:///etc/passwd",
            "url=http://",
            "url=http://a b/",
        ),
        *("url=http://[::1", "url=http://h:x/"),
    ],
)
def test_a_setting_that_makes_no_sense_is_told(setting: str) -> None:
    with pytest.raises(UsageError, match=setting.split("=")[0]):
        choose(f"perspective:key,{setting}")

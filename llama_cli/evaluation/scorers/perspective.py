"""PerspectiveAPI, the paper's toxicity scorer (LLaMA, section 5.1), over its REST protocol.

    POST URL/v1alpha1/comments:analyze
    {"comment": {"text": ...}, "languages": ["en"], "requestedAttributes": {"TOXICITY": {}}}
    {"attributeScores": {"TOXICITY": {"summaryScore": {"value": 0.98}}}}

https://developers.perspectiveapi.com/s/about-the-api-methods. The service ends on 31 December 2026
and takes no new keys. The key travels in a header, so that it is in no address that a log or
an error shows. Each answer is kept in a file at once, and what is in that file is not asked again.
"""

from __future__ import annotations

import http.client
import random
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import orjson
from xxhash import xxh3_128_hexdigest

from llama_cli.errors import LlamaError, NotReadyError, one_line
from llama_cli.stream.reader import read_lines

URL = "https://commentanalyzer.googleapis.com"
QUOTA = 1.0  # requests a second that a key gets
TRIES = 8  # of one request; ours: waits of up to two minutes and a half together
FEW = 3  # where nobody has answered yet; ours: waits of up to five seconds
LONGEST_WAIT = 64.0  # seconds; ours
TIMEOUT = 30.0  # seconds; ours
AT_ONCE = 16  # requests under way at most; ours
BUSY = {429, 500, 502, 503, 504}  # HTTP states that pass
REFUSED = {401, 403}
ENDED = "PerspectiveAPI ends on 31 December 2026: llama eval fit-scorer makes a scorer that stays"


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a request was not answered, how often it is to be sent in all, and what is asked."""

    said: str
    tries: int
    after: str = ""  # Retry-After


@dataclass(frozen=True, slots=True)
class Perspective:
    """A client. `key_file` holds the key; `cache` keeps what was answered, by hash of the text."""

    key_file: Path
    url: str = URL
    quota: float = QUOTA  # requests a second
    attribute: str = "TOXICITY"
    languages: Sequence[str] = ("en",)
    cache: Path | None = None
    wait: Callable[[float], object] | None = field(default=None, repr=False)  # for tests
    say: Callable[[str], object] = field(default=lambda words: None, repr=False)  # of a wait

    @property
    def name(self) -> str:
        """Name the service, and the attribute and languages where they are not the paper's."""
        usual = (self.attribute, tuple(self.languages)) == ("TOXICITY", ("en",))
        return (
            "perspective" if usual else f"perspective:{self.attribute}:{'+'.join(self.languages)}"
        )

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Ask for what is not in the cache. A text of nothing but space scores 0, unasked.

        Raises:
            NotReadyError: there is no key, or it is refused.
            LlamaError: the service cannot be reached, or does not take a text.
        """
        known = self._known()
        wanted = [text for text in dict.fromkeys(texts) if text.strip()]
        unknown = [text for text in wanted if self._name(text) not in known]
        if unknown:
            known |= self._answers(unknown)
        return [known[self._name(text)] if text.strip() else 0.0 for text in texts]

    def _answers(self, texts: Sequence[str]) -> dict[str, float]:
        """Ask for every text, several at once, and keep each answer when it comes."""
        key, pace = self._key(), _Pace(1 / self.quota, self.wait, self.say)
        with self._keeping() as keep, _pool(AT_ONCE, pace) as pool:

            def answer(text: str) -> tuple[str, float]:
                name, score = self._name(text), self._ask(key, pace, text)
                keep(name, score)
                return name, score

            return dict(pool.map(answer, texts))

    def _name(self, text: str) -> str:
        """Hash all that an answer depends on."""
        asked = orjson.dumps([self.attribute, list(self.languages)]) + b"\0"
        return xxh3_128_hexdigest(asked + text.encode("utf-8", "surrogatepass"))

    def _known(self) -> dict[str, float]:
        if self.cache is None or not self.cache.exists():
            return {}
        known = {}
        for _, _, line in read_lines([str(self.cache)]):
            try:
                row = orjson.loads(line)
                known[row["key"]] = float(row["score"])
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
                continue  # the end of a line that a kill cut short
        return known

    @contextmanager
    def _keeping(self) -> Iterator[Callable[[str, float], None]]:
        if self.cache is None:
            yield lambda name, score: None
            return
        with self.cache.open("ab") as file:
            file.write(b"\n" if file.tell() else b"")  # a line cut short ends here

            lock = threading.Lock()

            def keep(name: str, score: float) -> None:
                with lock:
                    file.write(orjson.dumps({"key": name, "score": score}) + b"\n")
                    file.flush()

            yield keep

    def _key(self) -> str:
        if not self.key_file.is_file():
            raise NotReadyError(
                f"no key of PerspectiveAPI at {self.key_file}",
                hint=f"--scorer linear:FILE; {ENDED}",
            )
        key = self.key_file.read_text(encoding="utf-8", errors="replace").strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise NotReadyError(f"{self.key_file} holds no key: one word is wanted")
        return key

    def _ask(self, key: str, pace: _Pace, text: str) -> float:
        body = orjson.dumps(
            {
                "comment": {"text": text.encode("utf-8", "replace").decode()},
                "languages": list(self.languages),
                "requestedAttributes": {self.attribute: {}},
                "doNotStore": True,
            }
        )
        headers = {"Content-Type": "application/json", "X-Goog-Api-Key": key}
        where = f"{self.url.rstrip('/')}/v1alpha1/comments:analyze"
        answer = self._sent(urllib.request.Request(where, body, headers), pace)
        try:
            return float(answer["attributeScores"][self.attribute]["summaryScore"]["value"])
        except (KeyError, TypeError, ValueError):
            raise LlamaError(f"{self.url}: an answer without a score of {self.attribute}") from None

    def _sent(self, request: urllib.request.Request, pace: _Pace) -> Any:
        """Send a request until it is answered, or was tried too often."""
        for attempt in count(1):
            pace.turn()
            found = self._tried(request, pace)
            if not isinstance(found, _Failure):
                return found
            if attempt >= found.tries:
                break
            pace.tell(f"{self.url}: {found.said}; asking again, up to {found.tries} times")
            pace.rest(_pause(attempt - 1, found.after))
        raise LlamaError(
            f"{self.url} did not answer in {found.tries} "
            f"{'try' if found.tries == 1 else 'tries'}: {found.said}",
            hint=f"the same command later, or a smaller quota=; {ENDED}",
        )

    def _tried(self, request: urllib.request.Request, pace: _Pace) -> Any:
        """Send a request once; give the answer, or a _Failure that may pass."""
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
                pace.reached = True
                return orjson.loads(reply.read())
        except urllib.error.HTTPError as error:
            pace.reached = True
            return _Failure(self._refusal(error), TRIES, error.headers.get("Retry-After", ""))
        except (OSError, http.client.HTTPException, orjson.JSONDecodeError) as error:
            said = one_line(str(getattr(error, "reason", error)))
            return _Failure(said, TRIES if pace.reached else _tries(error))

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        """Say why a request failed, if trying again may help.

        Raises:
            LlamaError: it may not.
        """
        said = one_line(_message(error))
        if error.code in BUSY:
            return said
        if error.code in REFUSED or "key" in said.lower():
            raise NotReadyError(
                f"PerspectiveAPI refuses the key in {self.key_file}: {said}", hint=ENDED
            )
        raise LlamaError(f"{self.url}: {said}", hint=ENDED if error.code in {404, 410} else None)


class _Pace:
    """Turns that come at most once in `seconds`, for any number of threads, until `stop`.

    It remembers whether the service has ever answered, and tells of the first wait for it.
    """

    def __init__(
        self,
        seconds: float,
        wait: Callable[[float], object] | None,
        say: Callable[[str], object],
    ) -> None:
        self.reached = False
        self._say: Callable[[str], object] | None = say
        self._seconds, self._stopped = seconds, threading.Event()
        self._wait = wait or self._stopped.wait
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def turn(self) -> None:
        """Wait for the next turn."""
        with self._lock:
            now = time.monotonic()
            at = max(now, self._next)
            self._next = at + self._seconds
        if at > now:
            self.rest(at - now)

    def tell(self, words: str) -> None:
        """Say why there is a wait, once for all threads."""
        with self._lock:
            say, self._say = self._say, None
        if say:
            say(words)

    def rest(self, seconds: float) -> None:
        """Wait.

        Raises:
            LlamaError: another thread has failed, and there is nothing more to wait for.
        """
        self._wait(seconds)
        if self._stopped.is_set():
            raise LlamaError("stopped")

    def stop(self) -> None:
        """End all waiting."""
        self._stopped.set()


@contextmanager
def _pool(size: int, pace: _Pace) -> Iterator[ThreadPoolExecutor]:
    """Give threads, whose waiting ends and whose waiting work is dropped with the block."""
    pool = ThreadPoolExecutor(size)
    try:
        yield pool
    finally:
        pace.stop()
        pool.shutdown(wait=True, cancel_futures=True)


def _tries(error: Exception) -> int:
    """Say how often to ask a service that has never answered, for what it did not do.

    A name that nobody knows, and a certificate that is not right, stay so.
    """
    if not isinstance(error, urllib.error.URLError):  # it was reached
        return TRIES
    cause = error.reason
    unknown = isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN
    return 1 if unknown or isinstance(cause, ssl.SSLCertVerificationError) else FEW


def _pause(attempt: int, after: str) -> float:
    """Wait as long as was asked for, or twice as long as before, and up to half as much more."""
    seconds = float(after) if after.isdigit() else 2.0**attempt
    return min(LONGEST_WAIT, seconds) * random.uniform(1, 1.5)


def _message(error: urllib.error.HTTPError) -> str:
    """Read what Google says of an error, or its HTTP state."""
    try:
        told = orjson.loads(error.read())["error"]["message"]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        told = error.reason
    return f"{error.code} {told}"

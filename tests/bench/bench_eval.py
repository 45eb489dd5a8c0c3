"""Documents a CPU second on one thread, and the same figures, beside lm-evaluation-harness.

A random LLaMA of transformers with 288 dimensions and 6 layers, the same strings for both. The
peer is run by the Python that LLAMA_BENCH_PEER names, which needs lm-eval 0.4.13:

    python -m venv peer && peer/bin/pip install 'lm-eval[hf]==0.4.13'
    LLAMA_BENCH_PEER=peer/bin/python python tests/bench/run.py eval

Seconds are those of the process, from strings to likelihoods or texts; loading is not in them.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llama_cli.evaluation.data import Data
from llama_cli.evaluation.models.answering import Answering
from llama_cli.evaluation.models.local import Local
from llama_cli.evaluation.render import Setting, render
from llama_cli.evaluation.request import Request, Response
from llama_cli.evaluation.tasks import TASKS
from llama_cli.inference.backend import open_network
from llama_cli.inference.engine import Engine
from llama_cli.model.formats import open_source
from llama_cli.tokenizer.bpe import Tokenizer
from llama_cli.tokenizer.exported import exported
from tests.bench.bench_generate import stories
from tests.bench.run import Row
from tests.shell import ROOT, SHARED
from tests.tiny import run_on

DATA = SHARED / "data" / "eval"
RANKED = ("boolq", "piqa", "hellaswag", "arc_easy", "arc_challenge", "openbookqa")
CONTEXT = 2048
FEW, MANY = 40, 200  # rows of each of six tasks, and of ARC-easy for its speed
SUBJECTS, OF_EACH, QUESTIONS = 3, 16, 128  # of MMLU, and of NaturalQuestions
SCORED, COMPLETED = 4, 1  # rows the peer takes at once: of 1, 4, 8, 16 and 32 the quickest here
BATCH = 64  # completions of ours that grow together
CLOSE, ALONE = 1e-3, 1e-4  # nats: to the peer, and to the same row alone
Found = dict[str, Any]


def rows() -> Iterator[Row]:
    """Compare figures, then speed; without a peer or data, say so."""
    peer = os.environ.get("LLAMA_BENCH_PEER")
    if not peer or not DATA.exists():
        lacking = "LLAMA_BENCH_PEER" if DATA.exists() else str(DATA)
        yield Row("evaluation", "not measured", f"no {lacking}", None)
        return
    run_on(1)
    sets = {name: asked(name, MANY if name == "arc_easy" else FEW) for name in RANKED}
    sets |= {"mmlu": mmlu(), "nq_open": asked("nq_open", QUESTIONS, shots=64)}
    with TemporaryDirectory() as directory:
        folder = Path(directory)
        make_model(folder / "model")
        theirs = run_peer(peer, folder, sets)
        engine = open_engine(folder / "model")
        yield from _compared(engine, sets, theirs)


def asked(name: str, count: int | None, *, shots: int | None = None) -> list[Request]:
    """Give the first rows of a benchmark as they are asked, without what is asked beside them."""
    data = Data([DATA, *DATA.iterdir()])
    rows = render(TASKS[name], data, Setting(limit=count, shots=shots))
    return [
        replace(each, pairs=[p for p in each.pairs if p[0] == each.pairs[0][0]]) for each in rows
    ]


def mmlu() -> list[Request]:
    """Give some rows of some subjects, each with its five shots."""
    by_subject: dict[str, list[Request]] = {}
    for each in asked("mmlu", None):
        by_subject.setdefault(each.meta["groups"][-1], []).append(each)
    some = islice(by_subject.values(), SUBJECTS)
    return [each for requests in some for each in requests[:OF_EACH]]


def _compared(
    engine: Engine, sets: Mapping[str, Sequence[Request]], theirs: Found
) -> Iterator[Row]:
    answered, seconds = {}, {}
    for name, requests in sets.items():
        answered[name], seconds[name] = answer(Local(engine, batch=BATCH), requests)
    yield from _figures(engine, sets, answered, theirs)
    yield _alone(engine, sets, answered)
    for name, peer, what, least in SPEED:
        count = len(sets[name])
        ours, other = count / seconds[name], count / theirs["seconds"][peer]
        yield Row(
            f"{what}, {count} documents (asked for: {least} times)",
            f"{ours:,.1f} documents/CPU s",
            f"{other:,.1f}",
            ours / other,
        )


SPEED = (
    ("arc_easy", "arc_easy", "ARC-easy, 0-shot", 3),
    ("arc_easy", "task arc_easy", "ARC-easy, 0-shot, the peer's whole task", 3),
    ("mmlu", "mmlu", "MMLU, 5-shot", 10),
    ("nq_open", "complete", "NaturalQuestions, 64-shot, fixed shots", 20),
)


def _figures(
    engine: Engine,
    sets: Mapping[str, Sequence[Request]],
    answered: Mapping[str, Sequence[Response]],
    theirs: Found,
) -> Iterator[Row]:
    """Compare every likelihood, the accuracies and the texts; they must agree."""
    for bos in (True, False):
        apart, count = 0.0, 0
        for name in (*RANKED, *(["mmlu"] if bos else [])):
            ours = answered[name]
            if not bos:
                ours, _ = answer(Local(engine, bos=False), sets[name])
            values = [value for each in ours for value in each.logprobs]
            others = [value for value, _ in theirs["score"][f"{name} {bos}"]]
            apart = max(apart, *(abs(a - b) for a, b in zip(values, others, strict=True)))
            count += len(values)
        assert apart < CLOSE, f"{apart} nats from the peer"
        mark = "with" if bos else "without"
        yield Row(f"{count:,} likelihoods {mark} begin mark", f"{apart:.1e} nats apart", "", None)
    for name in RANKED:
        ours = [100 * value for value in accuracies(answered[name])]
        others = [100 * value for value in theirs["tasks"][name]]
        assert [round(v, 6) for v in ours] == [round(v, 6) for v in others], (name, ours, others)
        shown = [" / ".join(f"{value:.1f}" for value in each) for each in (ours, others)]
        yield Row(f"{name}, accuracy / by characters", *shown, None)
    same = [each.completions[0] for each in answered["nq_open"]] == theirs["complete"]
    assert same, "other texts than the peer's"
    yield Row("NaturalQuestions, greedy texts", "the same", f"{len(answered['nq_open'])}", None)


def _alone(
    engine: Engine,
    sets: Mapping[str, Sequence[Request]],
    answered: Mapping[str, Sequence[Response]],
) -> Row:
    """Score some rows each alone."""
    apart = 0.0
    for name in RANKED:
        few, _ = answer(Local(engine, budget=1), sets[name][:8])
        together = (value for each in answered[name][:8] for value in each.logprobs)
        alone = (value for each in few for value in each.logprobs)
        apart = max(apart, *(abs(a - b) for a, b in zip(together, alone, strict=True)))
    assert apart < ALONE, f"{apart} nats from a row alone"
    return Row("a row alone, or with others", f"{apart:.1e} nats apart", "", None)


def answer(model: Local, requests: Sequence[Request]) -> tuple[list[Response], float]:
    """Give the responses, and the CPU seconds of this process."""
    start = time.process_time()
    responses = list(Answering(model)(requests))
    return responses, time.process_time() - start


def accuracies(responses: Sequence[Response]) -> list[float]:
    """Count rows whose likeliest choice is right: in all, and by character."""
    right = [0, 0]
    for each in responses:
        lengths = [len(choice) - 1 for _, choice in each.request.pairs]
        by_length = [p / n for p, n in zip(each.logprobs, lengths, strict=True)]
        for i, values in enumerate((list(each.logprobs), by_length)):
            right[i] += values.index(max(values)) == each.request.gold
    return [count / len(responses) for count in right]


def make_model(directory: Path) -> None:
    """Keep a random model in transformers' layout, with its tokenizer."""
    directory.mkdir()
    stories(directory, context=CONTEXT)
    for name, data in exported(Tokenizer.load(), context=CONTEXT).items():
        (directory / name).write_bytes(data)


def open_engine(directory: Path) -> Engine:
    """Open it as `llama eval` does."""
    return Engine(open_network(open_source(directory)), Tokenizer.load())


def run_peer(python: str, folder: Path, sets: Mapping[str, Sequence[Request]]) -> Found:
    """Let lm-eval answer the same, in a process of its own."""
    scored = {name: each for name, each in sets.items() if each[0].kind == "score"}
    job = {
        "model": str(folder / "model"),
        "batch": SCORED,
        "batch_completed": COMPLETED,
        "score": {name: [p for r in each for p in r.pairs] for name, each in scored.items()},
        "bos_only": ["mmlu"],
        "complete": [each.prompt for each in sets["nq_open"]],
        "until": list(sets["nq_open"][0].stop),
        "max_tokens": sets["nq_open"][0].max_tokens,
        "tasks": {name: [_document(each) for each in sets[name]] for name in RANKED},
    }
    (folder / "job.json").write_text(json.dumps(job))
    script = ROOT / "tests" / "bench" / "lm_eval_peer.py"
    command = [python, str(script), str(folder / "job.json"), str(folder / "found.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the peer ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found: Found = json.loads((folder / "found.json").read_text())
    return found


def _document(request: Request) -> Found:
    choices = [continuation.removeprefix(" ") for _, continuation in request.pairs]
    return {"query": request.pairs[0][0], "choices": choices, "gold": request.gold}

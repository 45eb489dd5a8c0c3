"""Greedy tokens a second on one thread of a CPU, beside transformers' generate.

A random LLaMA of the shape of stories15M (15.2 M parameters, a tied head), 200 tokens after a
prompt. The seconds are the thread's own, so that a busy machine counts less; rounds are taken in
turns. In fp32 the tokens must be the same ones.

Beside llama.cpp too, where LLAMA_BENCH_LLAMA_CPP names a Python with llama-cpp-python and gguf:

    python -m venv peer && peer/bin/pip install llama-cpp-python gguf
    LLAMA_BENCH_LLAMA_CPP=peer/bin/python python tests/bench/run.py generate
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy
import sentencepiece
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llama_cli.inference.backend import open_network
from llama_cli.inference.engine import Engine, Settings
from llama_cli.model.formats import open_source
from llama_cli.records import Prompt
from llama_cli.tokenizer.bpe import Tokenizer
from tests.bench.run import Row
from tests.tiny import run_on

ROUNDS, TOKENS, MANY = 5, 200, 32
TEXT = "Once upon a time there was a"


def rows() -> Iterator[Row]:
    """Measure transformers with a row, and ours with one and with many, in fp32 and int8."""
    run_on(1)
    with TemporaryDirectory() as directory:
        peer = stories(Path(directory))
        native = _by_llama_cpp(Path(directory))
        engines = {name: _engine(Path(directory), quantize=name == "int8") for name in KINDS}
    prompt = torch.tensor([engines["fp32"].tokenizer.encode(TEXT)])
    wanted = _by_peer(peer, prompt)
    cases = [(name, batch) for name in KINDS for batch in (1, MANY)]
    spent: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    ratios: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    seconds = []
    for _ in range(ROUNDS):
        seconds.append(_seconds(lambda: _by_peer(peer, prompt)))
        for name, batch in cases:
            taken = _seconds(lambda name=name, batch=batch: _ours(engines[name], batch))
            spent[name, batch].append(taken)
            ratios[name, batch].append(batch * seconds[-1] / taken)
    same = all(each == wanted for batch in (1, MANY) for each in _ours(engines["fp32"], batch))
    assert same, "other tokens than those of transformers"
    for name, batch in cases:
        yield Row(
            f"generate, {name}, {batch} row{'s' if batch > 1 else ''}",
            f"{batch * TOKENS / median(spent[name, batch]):,.0f} tokens/s",
            f"{TOKENS / median(seconds):,.0f} tokens/s with one row",
            median(ratios[name, batch]),
        )
    for name, kind in (("fp32", "f32"), ("int8", "q8_0")):
        if kind in native:
            own, (other, said) = median(spent[name, 1]), native[kind]
            assert name != "fp32" or said == wanted, "other tokens than those of llama.cpp"
            yield Row(
                f"generate, {name}, 1 row (peer: llama.cpp, {kind})",
                f"{TOKENS / own:,.0f} tokens/s",
                f"{TOKENS / other:,.0f} tokens/s",
                other / own,
            )


KINDS = ("fp32", "int8")


def stories(directory: Path, *, context: int = 256) -> LlamaForCausalLM:
    """Make a random model of transformers, and keep it in `directory`."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=288,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=6,
        vocab_size=32_000,
        max_position_embeddings=context,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = None
    model.save_pretrained(directory)
    (directory / "tokenizer.model").write_bytes(Tokenizer.load().model)
    return model


def _by_llama_cpp(directory: Path) -> dict[str, tuple[float, list[int]]]:
    """Give the seconds that each of its formats takes, and its tokens; nothing where it is not."""
    python = os.environ.get("LLAMA_BENCH_LLAMA_CPP")
    if not python:
        return {}
    source, tokenizer = open_source(directory), Tokenizer.load()
    numpy.savez(directory / "weights.npz", **{k: source.array(k) for k in source.entries})
    pieces = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    about = {
        "config": source.config.to_params()
        | {"layers": source.config.layers, "heads": source.config.heads},
        "pieces": [
            (pieces.id_to_piece(i), pieces.get_score(i), _kind(pieces, i))
            for i in range(tokenizer.vocab_size)
        ],
        "prompt": tokenizer.encode(TEXT),
        "tokens": TOKENS,
    }
    (directory / "about.json").write_text(json.dumps(about))
    script = Path(__file__).with_name("llama_cpp_peer.py")
    files = [str(directory / "weights.npz"), str(directory / "about.json")]
    done = subprocess.run([python, str(script), *files], stdout=subprocess.PIPE, check=True)
    taken: dict[str, list[tuple[float, list[int]]]] = {}
    for line in map(json.loads, done.stdout.splitlines()):
        taken.setdefault(line["format"], []).append((line["seconds"], line["tokens"]))
    return {name: (median(x for x, _ in each), each[0][1]) for name, each in taken.items()}


def _kind(pieces: sentencepiece.SentencePieceProcessor, token: int) -> int:
    """Say what a piece is as GGUF numbers it: normal, unknown, control or a byte."""
    if pieces.is_unknown(token):
        return 2
    return 3 if pieces.is_control(token) else 6 if pieces.is_byte(token) else 1


def _engine(directory: Path, *, quantize: bool) -> Engine:
    return Engine(open_network(open_source(directory), quantize=quantize), Tokenizer.load())


def _by_peer(model: LlamaForCausalLM, prompt: torch.Tensor) -> list[int]:
    with torch.inference_mode():
        mask = torch.ones_like(prompt)
        made = model.generate(
            prompt, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
        )
    return made[0, prompt.shape[1] :].tolist()


def _ours(engine: Engine, batch: int) -> list[list[int]]:
    settings = Settings(max_tokens=TOKENS, temperature=0, batch=batch)
    prompts = [Prompt(str(number), TEXT) for number in range(batch)]
    return [each.tokens for each in engine.generate(prompts, settings)]


def _seconds(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start

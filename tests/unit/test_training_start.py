"""What follows from a checkpoint to begin with, and what is refused, without training."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from llama_cli.commands import _train
from llama_cli.commands._train_data import keep_data, open_data, where_from
from llama_cli.commands._train_options import Options
from llama_cli.commands._train_start import settle
from llama_cli.errors import LlamaError, UsageError
from llama_cli.model.config import SIZES
from llama_cli.model.transformer import Transformer
from llama_cli.model.weights import save_weights
from llama_cli.parallel.mesh import ONE
from llama_cli.stream.progress import Progress
from llama_cli.tokenizer.bpe import Tokenizer
from llama_cli.tokenizer.template import Template
from llama_cli.training.job import Job
from tests.tiny import CONFIG, tiny_checkpoint, tiny_tokenizer
from tests.unit.test_training_instructions import ALL, CHAT, PAIR, lines
from tests.unit.test_training_options import PLAIN
from tests.unit.training import write_sequences

QUIET = Progress("train", quiet=True)
BARE = {**asdict(PLAIN), "size": None, "batch": None, "dtype": "fp32"}


@pytest.fixture(autouse=True)
def beside_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work where there are `ck`, of 400 pieces, and `i.jsonl`."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(Path("ck"))
    lines(Path("i.jsonl"), *ALL)


def settled(**options: Any) -> Options:
    return settle({**BARE, **options})


def made(**options: Any) -> Job:
    """Do what the command does before its first step."""
    chosen = settled(**{"start": Path("ck"), **options})
    run = chosen.run or Path("runs") / chosen.size
    run.mkdir(parents=True, exist_ok=True)
    where = where_from(chosen)
    with ExitStack() as stack:
        keep_data(chosen, run, where, stack, QUIET)
        data = open_data(chosen, run, where, ONE, QUIET)
        return _train.make_job(chosen, run, data, QUIET)


def small(directory: str, size: str = "3m") -> Path:
    """Write a checkpoint of a size that has a name, with 50 pieces and no tokenizer."""
    Path(directory).mkdir()
    save_weights(Transformer(SIZES[size].with_data(vocab_size=50, context=8)), Path(directory))
    return Path(directory)


def test_without_a_checkpoint_the_smallest_model_begins() -> None:
    assert (settled().size, settled().run, settled(size="7b").size) == ("3m", None, "7b")


def test_size_directory_and_tokenizer_are_the_checkpoints() -> None:
    chosen = settled(start=Path("ck"), instructions="i.jsonl")
    assert (chosen.size, chosen.run) == ("3m", Path("runs/custom-instructions"))  # the nearest
    assert chosen.tokenizer == Path("ck/tokenizer.model")
    named = settled(start=small("m"), size="3m")
    assert (named.size, named.run, named.tokenizer) == ("3m", Path("runs/3m-continued"), None)


def test_the_defaults_of_instructions_are_alpacas() -> None:
    job = made(instructions="i.jsonl")
    settings, sequences = job.settings, len(job.data)
    assert settings.lr == pytest.approx(3e-3 / 15)  # of Table 2's 3e-4 that is Alpaca's 2e-5
    assert settings.batch in {2**n for n in range(10)}
    assert 90 < len(ALL) * settings.batch / sequences < 182  # conversations a step: 128, rounded
    assert settings.steps == -(-3 * sequences // settings.batch)
    assert (settings.warmup, settings.cross_document) == (1, False)


def test_options_say_otherwise() -> None:
    job = made(instructions="i.jsonl", epochs=0.5, batch=2, lr=1e-3, warmup=7)
    assert (job.settings.batch, job.settings.lr, job.settings.warmup) == (2, 1e-3, 7)
    assert job.settings.steps == -(-len(job.data) // 4)
    assert made(instructions="i.jsonl", steps=9).settings.steps == 9


def test_the_context_and_vocabulary_are_the_checkpoints() -> None:
    config = made(instructions="i.jsonl").config
    assert (config.context, config.vocab_size) == (CONFIG.context, tiny_tokenizer().vocab_size)


def test_responses_are_held_out_in_the_same_form() -> None:
    lines(Path("v.jsonl"), PAIR, CHAT)
    validation = made(instructions="i.jsonl", validation="v.jsonl").validation
    assert validation is not None
    assert validation.counts is not None
    assert 0 < validation.counted < validation.tokens.numel() / 2


def test_a_template_taught_before_is_taught_again() -> None:
    odd = Template(user="Q: {}\n", assistant="A:")
    Path("ck/template.json").write_text(odd.to_json())
    job = made(instructions="i.jsonl")
    assert Template.from_json((job.run / "template.json").read_text()) == odd
    assert tiny_tokenizer().decode(job.data.batch(1, 1).tokens[0].tolist()).startswith("Q: ")


def test_more_pretraining_takes_the_rate_of_the_size_and_one_pass() -> None:
    write_sequences(Path("mixed"), vocab=400)
    settings = made(batch=4, data="mixed").settings
    assert (settings.lr, settings.steps, settings.cross_document) == (3e-3, 5, True)
    assert made(batch=4, data="mixed", epochs=3).settings.steps == 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1, "epochs": 1.0}, "--steps and --epochs say the same"),
        ({"steps": 1, "tokens": 1}, "--steps and --tokens say the same"),
        ({"instructions": "i.jsonl", "data": "x"}, "--instructions is the data"),
        ({"instructions": "i.jsonl"}, "--instructions goes on from a model"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        settled(**options)


def test_a_checkpoint_of_another_size_is_refused() -> None:
    with pytest.raises(LlamaError, match="m is no 15m: its width is 256 in 4 layers"):
        settled(start=small("m"), size="15m")
    with pytest.raises(LlamaError, match="ck is no 3m: its width is 32 in 2 layers"):
        settled(start=Path("ck"), size="3m")


def test_no_checkpoint_is_refused() -> None:
    with pytest.raises(LlamaError, match="no checkpoint in nowhere"):
        settled(start=Path("nowhere"))


def test_instructions_in_another_vocabulary_are_refused() -> None:
    Path("t.model").write_bytes(Tokenizer.load().model)
    with pytest.raises(LlamaError, match="ck has 400 pieces, the data 32,000"):
        made(instructions="i.jsonl", tokenizer=Path("t.model"))
    with pytest.raises(LlamaError, match="m has 50 pieces, the data 32,000"):
        made(start=small("m"), instructions="i.jsonl")


def test_shards_of_another_vocabulary_or_tokenizer_are_refused() -> None:
    with pytest.raises(LlamaError, match="ck has 400 pieces, the data 50"):
        made(data=str(write_sequences(Path("d"))))
    other = write_sequences(Path("e"), vocab=400, tokenizer_sha256="0123456789")
    with pytest.raises(LlamaError, match="ck was trained with another tokenizer"):
        made(data=str(other))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "i.jsonl holds no conversation"),
        ('{"prompt": "x"}', "i.jsonl:1: no field 'response'"),
        (json.dumps({"prompt": "cat " * 99, "response": "x"}), "i.jsonl:1: the prompt has"),
    ],
)
def test_instructions_that_cannot_be_learnt_from_are_refused(text: str, message: str) -> None:
    Path("i.jsonl").write_text(text)
    with pytest.raises(LlamaError, match=message):
        made(instructions="i.jsonl")


def test_a_damaged_template_is_one_line() -> None:
    Path("ck/template.json").write_text("{")
    with pytest.raises(LlamaError, match=r"ck/template\.json: "):
        made(instructions="i.jsonl")

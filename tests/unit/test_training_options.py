"""What each option of `llama train` comes to, without training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llama_cli.commands import _train
from llama_cli.commands._train_options import Options, dry_run
from llama_cli.errors import LlamaError
from llama_cli.stream.progress import Progress
from llama_cli.tokenizer.bpe import Tokenizer
from llama_cli.training.data import Sequences
from llama_cli.training.job import Job
from tests.unit.training import LENGTH, write_sequences

PLAIN = Options(
    size="3m",
    data=None,
    run=None,
    steps=None,
    tokens=None,
    batch=4,
    micro_batch=None,
    tensor=1,
    replicas=1,
    activations="keep",
    lr=None,
    warmup=None,
    warmup_from=0.1,
    seed=0,
    device="cpu",
    dtype=None,
    attention="auto",
    deterministic=True,
    compile=None,
    validation=None,
    validation_every=None,
    checkpoint_every=None,
    keep=2,
    tokenizer=None,
    dry_run=False,
    quiet=True,
    verbose=False,
)


def made(tmp_path: Path, **options: Any) -> Job:
    where = tmp_path / "data"
    if not where.exists():
        write_sequences(where)
    return _train.make_job(
        replace(PLAIN, **options), tmp_path / "run", Sequences(where), Progress("train", quiet=True)
    )


def test_the_default_is_one_pass_over_the_data(tmp_path: Path) -> None:
    settings = made(tmp_path).settings
    assert (settings.steps, settings.batch, settings.lr) == (5, 4, 3e-3)


def test_steps_and_tokens_say_the_length_of_the_run(tmp_path: Path) -> None:
    assert made(tmp_path, steps=7).settings.steps == 7
    assert made(tmp_path, tokens=7 * 4 * LENGTH).settings.steps == 7
    assert made(tmp_path, tokens=1).settings.steps == 1


def test_the_papers_sizes_take_everything_from_table_2(tmp_path: Path) -> None:
    job = made(tmp_path, size="33b", batch=None)
    tokens = job.settings.batch * LENGTH
    assert (job.settings.lr, tokens, job.settings.warmup) == (1.5e-4, 2048 * 2048, 2000)
    assert job.settings.steps * tokens == pytest.approx(1.4e12, rel=1e-5)  # whatever the data
    assert job.settings.warmup_from == 0.1


def test_the_model_fits_the_data(tmp_path: Path) -> None:
    config = made(tmp_path, size="15m").config
    assert (config.dim, config.vocab_size, config.context) == (448, 50, LENGTH)


def test_options_reach_the_settings(tmp_path: Path) -> None:
    settings = made(tmp_path, lr=0.5, warmup=0, seed=9, dtype="bf16").settings
    assert (settings.lr, settings.warmup) == (0.5, 0)
    assert (settings.seed, settings.dtype) == (9, "bf16")


def test_options_reach_the_way(tmp_path: Path) -> None:
    way = made(
        tmp_path,
        attention="reference",
        deterministic=False,
        compile=True,
        micro_batch=1,
        checkpoint_every=3,
        validation_every=2,
        keep=1,
    ).way
    assert (way.attention, way.compile, way.micro_batch) == ("reference", True, 1)
    assert way.deterministic is False
    assert (way.checkpoint_every, way.validation_every, way.keep) == (3, 2, 1)


@pytest.mark.parametrize(
    ("able", "dtype"), [({"avx512_bf16": True}, "bf16"), ({"avx512_bf16": False}, "fp32")]
)
def test_a_cpu_computes_in_bf16_if_it_can_and_does_not_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], dtype: str
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: able)
    job = made(tmp_path)
    assert (job.way.device, job.way.compile, job.settings.dtype) == ("cpu", False, dtype)


def test_a_short_run_is_saved_and_measured_ten_times_a_long_one_every_thousand(
    tmp_path: Path,
) -> None:
    assert made(tmp_path, steps=25).way.checkpoint_every == 3
    assert made(tmp_path, steps=10**6).way.validation_every == 1000


def test_validation_is_read_at_the_length_of_training(tmp_path: Path) -> None:
    held = write_sequences(tmp_path / "held", 99)
    job = made(tmp_path, validation=str(held))
    assert job.validation is not None
    assert job.validation.tokens.shape == (64, LENGTH + 1)


def test_documents_of_training_and_validation_are_kept_apart_together(tmp_path: Path) -> None:
    job = made(tmp_path, cross_document=False, validation=str(tmp_path / "data"))
    assert job.settings.cross_document is False
    assert job.validation is not None
    assert job.validation.bounds is not None
    mixed = made(tmp_path, validation=str(tmp_path / "data"))
    assert mixed.settings.cross_document
    assert mixed.validation is not None
    assert mixed.validation.bounds is None


def test_the_embedded_tokenizer_goes_with_data_made_with_it(tmp_path: Path) -> None:
    embedded = Tokenizer.load()
    write_sequences(tmp_path / "data", tokenizer_sha256=embedded.sha256)
    assert made(tmp_path).tokenizer == embedded.model


def test_data_of_an_unknown_tokenizer_goes_without(tmp_path: Path) -> None:
    assert made(tmp_path).tokenizer is None


def test_a_given_tokenizer_that_is_not_the_datas_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.model").write_bytes(Tokenizer.load().model)
    assert made(tmp_path, tokenizer=tmp_path / "t.model").tokenizer is not None
    write_sequences(tmp_path / "data", tokenizer_sha256="0123456789")
    with pytest.raises(LlamaError, match=r"another tokenizer \(01234567\)"):
        made(tmp_path, tokenizer=tmp_path / "t.model")


def test_a_dry_run_takes_the_length_of_the_data_given(tmp_path: Path) -> None:
    data = str(write_sequences(tmp_path / "data"))
    lines = dry_run(replace(PLAIN, data=data)).splitlines()
    assert lines[2].split() == ["tokens", str(20 * LENGTH)]
    lines = dry_run(replace(PLAIN, data=data, steps=3)).splitlines()
    assert lines[2].split() == ["tokens", str(3 * 4 * LENGTH)]


def test_a_dry_run_of_a_laptop_size_takes_20_tokens_a_parameter() -> None:
    assert "395.9M" in dry_run(PLAIN).splitlines()[2]
    assert "1.400T" in dry_run(replace(PLAIN, size="33b")).splitlines()[2]
    assert "2.000B" in dry_run(replace(PLAIN, tokens=2 * 10**9)).splitlines()[2]

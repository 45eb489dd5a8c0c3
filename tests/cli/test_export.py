"""`llama generate`, `eval` and `train` with the models of others, and what is written for them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_cli.model.formats import KINDS, open_source, write
from llama_cli.model.transformer import Transformer
from llama_cli.model.weights import load_model, save_weights
from tests.shell import sh
from tests.tiny import CONFIG, tiny_checkpoint, tiny_tokenizer
from tests.unit.formats import add_tokenizer, as_meta, model, same, theirs

ASK = "--prompt 'The cat' --temperature 0 --max-tokens 9 -q"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of ours, and the same model in the other layouts."""
    path = tmp_path_factory.mktemp("here")
    source = open_source(tiny_checkpoint(path / "llama"))
    for kind in ("hf", "meta"):
        (path / kind).mkdir()
        write(kind, source, path / kind)
        add_tokenizer(path / kind)
    return path


def test_every_layout_says_the_same(here: Path) -> None:
    said = [sh(f"llama generate --model {kind} {ASK}", here).stdout for kind in KINDS]
    assert len(set(said)) == 1
    assert len(json.loads(said[0])["tokens"]) == 9


def test_every_layout_is_scored_the_same(here: Path) -> None:
    (here / "d.jsonl").write_text('{"id": "a", "text": "The cat opens.", "source": "files"}\n')
    ask = "eval bits_per_byte --data d.jsonl -q"
    said = [json.loads(sh(f"llama {ask} --model {kind}", here).stdout) for kind in KINDS]
    assert [each.pop("model") for each in said] == list(KINDS)
    assert said == said[:1] * len(KINDS)
    assert said[0]["value"] > 0


def test_the_model_of_a_release_with_grouped_heads_in_two_files_completes(here: Path) -> None:
    whole = model()
    as_meta(here / "up" / "7B", whole, 2)
    shutil.move(here / "up" / "7B" / "tokenizer.model", here / "up" / "tokenizer.model")
    done = sh(f"llama generate --model up/7B {ASK}", here)
    assert done.returncode == 0, done.stderr
    ids = tiny_tokenizer().encode("The cat")
    with torch.no_grad():
        first = int(whole(torch.tensor([ids]))[0, -1].argmax())
    assert json.loads(done.stdout)["tokens"][0] == first


def test_transformers_loads_what_is_exported_and_says_the_same(here: Path, tmp_path: Path) -> None:
    done = sh(f"llama generate --model llama --export hf {tmp_path}/out", here)
    assert done.returncode == 0, done.stderr
    assert f"wrote {tmp_path}/out" in done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    }
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    given = tokenizer("The cat", return_tensors="pt")
    out = found.generate(**given, max_new_tokens=9, do_sample=False)
    said = json.loads(sh(f"llama generate --model llama {ASK}", here).stdout)["tokens"]
    assert out[0, given["input_ids"].shape[1] :].tolist() == said


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_exported_comes_back(here: Path, tmp_path: Path, kind: str) -> None:
    more = "--shards 2" if kind == "meta" else ""
    done = sh(
        f"llama generate --model llama --export {kind} {tmp_path}/a {more} -q && "
        f"llama generate --model {tmp_path}/a --export llama {tmp_path}/b -q",
        here,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert same(load_model(tmp_path / "b"), load_model(here / "llama"))
    for name in ("params.json", "tokenizer.model"):
        assert (tmp_path / "b" / name).read_bytes() == (here / "llama" / name).read_bytes()


def test_a_directory_that_is_there_stays_and_nothing_is_left_behind(
    here: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    done = sh(f"llama generate --model llama --export hf {tmp_path}/out", here)
    assert done.returncode == 1
    assert done.stderr.splitlines()[:2] == [
        f"llama generate: {tmp_path}/out is there already, and stays as it is",
        "  try: a name that is not taken",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_one_line_and_leaves_nothing(here: Path, tmp_path: Path) -> None:
    for kind in KINDS:
        limit = "unset ${!COV*}; ulimit -f 30; trap '' XFSZ"  # coverage would write, too
        done = sh(f"{limit}; llama generate --model llama --export {kind} {tmp_path}/out", here)
        assert done.returncode == 1
        assert "File too large" in done.stderr
        assert "Traceback" not in done.stderr
        assert not list(tmp_path.iterdir())


def test_a_model_and_a_tokenizer_of_two_sizes_are_not_exported(here: Path, tmp_path: Path) -> None:
    shutil.copytree(here / "llama", tmp_path / "odd")
    shutil.copy("llama_cli/tokenizer/default.model", tmp_path / "odd" / "tokenizer.model")
    done = sh("llama generate --model odd --export hf out", tmp_path)
    assert done.returncode == 1
    assert "odd: the model has 400 pieces, its tokenizer 32,000" in done.stderr


def test_a_model_with_spare_pieces_goes_where_they_can_be(tmp_path: Path) -> None:
    (tmp_path / "spare").mkdir()
    save_weights(Transformer(replace(CONFIG, vocab_size=408)), tmp_path / "spare")
    (tmp_path / "spare" / "tokenizer.model").write_bytes(tiny_tokenizer().model)
    done = sh("llama generate -q --model spare --export hf out", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert same(load_model(tmp_path / "out"), load_model(tmp_path / "spare"))
    done = sh("llama generate -q --model spare --export meta other", tmp_path)
    message = "llama generate: spare: the model has 408 pieces, its tokenizer 400\n"
    assert (done.returncode, done.stderr) == (1, message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--export hf out --prompt x", "--export stands alone"),
        ("--shards 2 --prompt x", "--export stands alone"),
        ("--export hf out -o x", "--export stands alone"),
        ("--export hf out --shards 2", "--shards is for --export meta"),
        ("--export meta out --shards 3", "the 2 heads do not divide by 3 files"),
        ("--export gguf out", "'gguf' is not one of 'hf', 'meta', 'llama'"),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(
    here: Path, options: str, message: str
) -> None:
    done = sh(f"llama generate --model llama {options}", here)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (here / "out").exists()


def test_a_damaged_model_is_one_line_and_its_code_does_not_run(here: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {tmp_path}/it-ran",)

    shutil.copytree(here / "meta", tmp_path / "evil")
    torch.save({"norm.weight": Evil()}, tmp_path / "evil" / "consolidated.00.pth")
    shutil.copytree(here / "hf", tmp_path / "cut")
    os.truncate(tmp_path / "cut" / "model.safetensors", 5000)
    for name, word in (("evil", "holds code (posix.system)"), ("cut", "model.safetensors: ")):
        for command in (f"generate {ASK}", "eval bits_per_byte --data /dev/null"):
            done = sh(f"llama {command} --model {name}", tmp_path)
            assert (done.returncode, done.stdout) == (1, "")
            first, *rest = done.stderr.splitlines()
            assert word in first
            assert rest[0].startswith("  try: ")
            assert len(rest) == 1
    assert not (tmp_path / "it-ran").exists()


def test_a_model_without_a_tokenizer_says_what_is_wanted(here: Path, tmp_path: Path) -> None:
    shutil.copytree(here / "hf", tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer.model").unlink()
    done = sh(f"llama generate --model hf {ASK}", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "llama generate: no tokenizer at hf/tokenizer.model",
        "  try: copy tokenizer.model of the model into hf",
    ]


def test_training_begins_with_the_weights_of_any_layout(here: Path, tmp_path: Path) -> None:
    text = '{"id": "%d", "text": "The cat opens the table.", "source": "files"}\n'
    (tmp_path / "d.jsonl").write_text("".join(text % n for n in range(99)))
    theirs(num_key_value_heads=4, tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
    add_tokenizer(tmp_path / "tied")
    done = sh(
        "llama tokenize d.jsonl --tokenizer tied/tokenizer.model -o tokens && "
        "llama mix tokens --length 16 -o mixed",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    losses = []
    for name in (*(here / kind for kind in KINDS), "tied"):
        run = f"runs/{Path(name).name}"
        options = "--data mixed --steps 2 --batch 2 --lr 1e-3 --dtype fp32 --device cpu -q"
        done = sh(f"llama train --from {name} --run {run} {options}", tmp_path)
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / run / "log.jsonl").read_text().splitlines()
        losses.append(
            next(found["loss"] for line in lines if "loss" in (found := json.loads(line)))
        )
    assert losses[0] == losses[1] == losses[2]
    told = json.loads(next((tmp_path / "runs" / "tied").glob("*-0000002/params.json")).read_text())
    assert (told["n_kv_heads"], told["tied"]) == (4, True)

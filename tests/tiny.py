"""A tokenizer of 400 pieces and a model of two small layers, made in a second."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import sentencepiece
import torch

from llama_cli.kernels import host
from llama_cli.model.config import ModelConfig
from llama_cli.model.transformer import Transformer, init_weights
from llama_cli.model.weights import TOKENIZER, save_weights
from llama_cli.tokenizer.bpe import Tokenizer

PIECES = 400
CONFIG = ModelConfig(dim=32, layers=2, heads=2, hidden=64, vocab_size=PIECES, context=64)


@functools.cache
def tiny_tokenizer() -> Tokenizer:
    """Learn one, with LLaMA's marks and byte fallback, from made-up sentences."""
    nouns = ["cat", "table", "garden", "river", "question", "answer", "bottle", "window"]
    verbs = ["opens", "holds", "crosses", "finds", "follows", "breaks"]
    text = [f"The {a} {verb} the {b}." for a in nouns for b in nouns for verb in verbs]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return Tokenizer(model.getvalue())


def tiny_model(seed: int = 0) -> Transformer:
    """Draw random weights, ten times as large as training starts with, so that tokens differ."""
    run_on(1)  # on a model this small, two threads wait for each other
    tokenizer = tiny_tokenizer()
    model = Transformer(CONFIG.with_data(vocab_size=tokenizer.vocab_size, context=CONFIG.context))
    init_weights(model, seed)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data.mul_(10)
    return model


def run_on(threads: int) -> None:
    """Have PyTorch and the processor's kernel run on so many."""
    torch.set_num_threads(threads)
    host.use_threads(threads)


def tiny_checkpoint(directory: Path, seed: int = 0) -> Path:
    """Write params.json, model.safetensors and tokenizer.model into a new `directory`."""
    directory.mkdir(parents=True)
    save_weights(tiny_model(seed), directory)
    (directory / TOKENIZER).write_bytes(tiny_tokenizer().model)
    return directory

"""Two processes that share a model's layers give what one alone gives."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from llama_cli.inference.engine import Engine, Settings
from llama_cli.inference.network import Network
from llama_cli.inference.shared import Group, Leader, follow
from llama_cli.model.formats import open_source
from llama_cli.model.formats.loading import load
from llama_cli.model.transformer import Transformer, init_weights
from llama_cli.model.weights import save_weights
from llama_cli.records import Prompt
from tests.tiny import CONFIG, tiny_tokenizer

SHAPES = {
    "plain": CONFIG,
    "grouped": replace(CONFIG, heads=4, kv_heads=2),
    "tied": replace(CONFIG, tied=True),
}
TEXTS = ["The cat", "The cat opens the river. The", "A"]
PAIRS = [([1, 30, 40], [50, 51]), ([1, 30, 40], [60]), ([1, 9], [7])]


def found(engine: Engine) -> dict[str, Any]:
    prompts = [Prompt(str(number), text) for number, text in enumerate(TEXTS)]
    made = list(engine.generate(prompts, Settings(max_tokens=10, temperature=0, batch=2)))
    return {
        "tokens": [each.tokens for each in made],
        "logprobs": [logprob for each in made for logprob in each.logprobs],
        "scores": [each.logprob for each in engine.score(PAIRS)],
    }


def rank_of(rank: int, port: int, directory: Path) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    group = Group(rank, 2, dist.new_group(backend="gloo"))
    made = {}
    for name in SHAPES:
        model = load(open_source(directory / name), columns=True, part=(rank, 2))
        network = Network(model.eval(), sharing=group)
        if rank:
            follow(network, group)
        else:
            leader = Leader(network, group)
            made[name] = found(Engine(leader, tiny_tokenizer()))
            leader.end()
    if not rank:
        torch.save(made, directory / "found.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("shared")
    for name, config in SHAPES.items():
        model = Transformer(config)
        init_weights(model, 0)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.data.mul_(10)
        (made / name).mkdir()
        save_weights(model, made / name)
        (made / name / "tokenizer.model").write_bytes(tiny_tokenizer().model)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_processes(rank_of, (port, made), nprocs=2, start_method="spawn")
    return made


@pytest.mark.parametrize("name", SHAPES)
def test_two_processes_give_what_one_gives(directory: Path, name: str) -> None:
    together = torch.load(directory / "found.pt")[name]
    model = load(open_source(directory / name))
    alone = found(Engine(Network(model.eval()), tiny_tokenizer()))
    assert together["tokens"] == alone["tokens"]
    assert together["logprobs"] == pytest.approx(alone["logprobs"], abs=1e-4)
    assert together["scores"] == pytest.approx(alone["scores"], abs=1e-4)

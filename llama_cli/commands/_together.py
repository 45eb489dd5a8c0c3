"""One model that several processes share: what torchrun started joins, and the first one leads."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from llama_cli.commands._completing import How
from llama_cli.commands._model import kept_in, open_tokenizer
from llama_cli.errors import LlamaError, UsageError
from llama_cli.training.place import rank_and_size

if TYPE_CHECKING:
    from llama_cli.inference.engine import Engine
    from llama_cli.model.config import ModelConfig
    from llama_cli.model.formats.source import Source


def processes() -> int:
    """Count the processes that torchrun started, this one among them.

    Raises:
        UsageError: the environment says what cannot be.
    """
    return rank_and_size(os.environ)[1]


def leads() -> bool:
    """Say whether streams and sockets are this process's."""
    return rank_and_size(os.environ)[0] == 0


def open_shared(
    ctx: click.Context, source: Source, how: How, clock: Callable[[], float] | None
) -> Engine:
    """Load this process's part of a model; the first gets an engine, the others follow and end.

    Raises:
        UsageError: the model does not divide by so many, or int8 was asked for.
        NotReadyError: a file is damaged.
    """
    import torch
    import torch.distributed as dist

    from llama_cli.inference.engine import Engine
    from llama_cli.inference.network import Network
    from llama_cli.inference.shared import Group, Leader, follow
    from llama_cli.model.dtypes import torch_dtype
    from llama_cli.model.formats.loading import load

    if how.threads:
        torch.set_num_threads(how.threads)
    rank, size = rank_and_size(os.environ)
    _check(source.config, size, how)
    on_gpu = how.device != "cpu"
    device = f"cuda:{os.environ.get('LOCAL_RANK', rank)}" if on_gpu else "cpu"
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    ctx.call_on_close(dist.destroy_process_group)
    kept = kept_in(how.dtype)
    dtype = torch_dtype(kept) if kept else None
    model = load(source, device=device, dtype=dtype, columns=not on_gpu, part=(rank, size))
    group = Group(rank, size, dist.new_group(backend="gloo"))
    network = Network(model.eval(), deterministic=how.deterministic, sharing=group)
    if rank:
        follow(network, group)
        ctx.exit()  # streams and reports are the leader's
    leader = Leader(network, group)
    ctx.call_on_close(leader.end)
    try:
        return Engine(leader, open_tokenizer(source), clock=clock)
    except ValueError as error:
        raise LlamaError(f"{source.directory}: {error}") from None


def _check(config: ModelConfig, size: int, how: How) -> None:
    if how.quantize:
        raise UsageError("--quantize is for one process", hint="--dtype bf16")
    for what, number in (
        ("heads of keys and values", config.key_heads),
        ("numbers of the hidden width", config.hidden),
        ("pieces of the vocabulary", config.vocab_size),
    ):
        if number % size:
            raise UsageError(f"the {number:,} {what} do not divide by {size} processes")

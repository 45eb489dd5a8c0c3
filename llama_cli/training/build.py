"""What a job becomes on this rank: a trainer, and the words of the log about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from llama_cli.model.blank import blank
from llama_cli.model.transformer import Transformer
from llama_cli.parallel.tensor import exchange, split
from llama_cli.training.job import Job, attention_of
from llama_cli.training.loop import Trainer
from llama_cli.training.speed import peak_flops


def build(job: Job, say: Callable[[str], None]) -> Trainer:
    """Make this rank's part of model and optimizer; the weights are still to be set."""
    way, attention = job.way, attention_of(job)
    mesh = replace(job.mesh, device=way.device)
    if attention.failed:
        say(f"attention {attention}")
    with blank():
        model = Transformer(
            job.config,
            attention=attention.name,
            deterministic=way.deterministic,
            activations=way.activations,
            exchange=exchange(mesh),
        )
    split(model, mesh)
    return Trainer(
        model,
        job.settings,
        micro_batch=way.micro_batch,
        compile=way.compile,
        mesh=mesh,
        reshard=way.reshard,
    )


def describe(job: Job, trainer: Trainer, cpu_clock: Callable[[], float]) -> dict[str, Any]:
    """Say what a run is and runs on, for the first line of its log; a CPU is measured for it."""
    device, dtype = trainer.device, job.settings.dtype
    peak, source = peak_flops(device, dtype, cpu_clock)
    on_gpu = device.type == "cuda"
    attention = attention_of(job)
    return {
        "size": job.size,
        "parameters": job.config.parameters,
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "processes": job.mesh.size,
        "tensor": job.mesh.tensor,
        "replicas": job.mesh.replicas,
        "threads": torch.get_num_threads(),
        "steps": job.settings.steps,
        "batch": job.settings.batch,
        "length": job.data.length,
        "dtype": dtype,
        "attention": attention.name,
        "attention_because": attention.why,
        "deterministic": job.way.deterministic or attention.name != "cuda",
        "compile": job.way.compile,
        "activations": job.way.activations,
        "peak_flops": peak,
        "peak_from": source,
    }

"""`llama train`: what to train on what, and where; the work is in `llama_cli.training`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llama_cli.commands._complete import paths
from llama_cli.commands._options import SEEDS, Command, Named, Real, settings_as_toml
from llama_cli.commands._train_launch import How, as_rank, launch_options, start, unsaved_at_first
from llama_cli.commands._train_plan import Where, plan_options, refuse, show
from llama_cli.commands._train_seeing import Seeing, seeing_options, watch
from llama_cli.commands._train_start import settle
from llama_cli.model.config import ACTIVATIONS, SIZES
from llama_cli.training.settings import WARMUP_FROM

ATTENTION = ("auto", "cuda", "sdpa", "xformers", "reference")
PATH = Named(path_type=Path)
COUNT = click.IntRange(1)


@click.command("train", cls=Command)
@click.option(
    "--size",
    type=click.Choice(list(SIZES)),
    help="The model: the paper's 7b to 65b, or one for a laptop.  [default: 3m, or that of --from]",
)
@click.option(
    "--data",
    metavar="PATH",
    shell_complete=paths,
    help="Sequences: a shard directory, a .jsonl[.zst], or - "
    "for stdin.  [default: stdin when piped, else ./mixed]",
)
@click.option(
    "--from",
    "start",
    type=PATH,
    metavar="DIR",
    help="Begin with the weights of this checkpoint, of the newest of this run, or of a model in "
    "Meta's or Hugging Face's layout.",
)
@click.option(
    "--instructions",
    metavar="FILE",
    shell_complete=paths,
    help="Learn from conversations instead of --data: JSON lines (plain or compressed) of prompt "
    "and response, of chat messages, or in Alpaca's form; - for stdin.",
)
@click.option(
    "--run",
    type=PATH,
    help="Directory of the run.  [default: runs/SIZE, with --from runs/SIZE-instructions or "
    "-continued]",
)
@click.option(
    "--steps",
    type=COUNT,
    help="Steps of the whole run.  [default: Table 2's tokens for 7b to 65b, else one pass]",
)
@click.option("--tokens", type=COUNT, help="Tokens of the whole run, instead of --steps.")
@click.option(
    "--epochs",
    type=Real(0, min_open=True),
    help="Passes over the data, instead of --steps.  [default of --instructions: 3]",
)
@click.option(
    "--batch",
    type=COUNT,
    help="Sequences a step.  [default: by size, the paper's 4M tokens for 7b to 65b; of "
    "--instructions, what holds 128 conversations]",
)
@click.option(
    "--micro-batch",
    type=COUNT,
    help="Sequences that pass through the model at once; "
    "gradients add up to --batch.  [default: --batch]",
)
@click.option(
    "--tensor",
    type=COUNT,
    default=1,
    show_default=True,
    metavar="RANKS",
    help="Ranks that share each layer (heads, hidden width, vocabulary, positions); the other "
    "ranks of torchrun see other rows of each batch.",
)
@click.option(
    "--replicas",
    type=COUNT,
    default=1,
    show_default=True,
    help="Copies of the weights among the ranks that see other rows; each is in parts.",
)
@click.option(
    "--activations",
    type=click.Choice(ACTIVATIONS),
    default="linear",
    show_default=True,
    help="What a layer keeps for its backward: all that autograd asks for, the outputs of its "
    "products (linear, section 2.4: less memory at no cost), or its input alone (full: least "
    "memory, a third more work).",
)
@click.option(
    "--reshard/--no-reshard",
    default=True,
    show_default=True,
    help="Give a layer's weights back between its forward and its backward: less memory, half as "
    "much more sent.",
)
@click.option(
    "--lr",
    type=Real(0, min_open=True),
    help="Highest learning rate.  [default: by size, Table 2; of --instructions, a fifteenth]",
)
@click.option(
    "--warmup",
    type=click.IntRange(0),
    help="Steps to the highest rate.  [default: 2000, or a quarter of a short run; 3% of one on "
    "--instructions]",
)
@click.option(
    "--warmup-from",
    type=Real(0, 1),
    default=WARMUP_FROM,
    show_default=True,
    metavar="SHARE",
    help="Where the warm-up begins, as a share of --lr; 0 is usual elsewhere.",
)
@click.option(
    "--seed",
    type=SEEDS,
    default=0,
    show_default=True,
    help="Seed of the first weights.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to train; auto takes a GPU if there is one.",
)
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "bf16"]),
    help="Of the matrix products; weights stay fp32.  [default: bf16 where GPU or CPU have it]",
)
@click.option(
    "--attention",
    type=click.Choice(ATTENTION),
    default="auto",
    show_default=True,
    help="Backend of the attention; auto takes our kernel (cuda) in bf16 on an A100 or newer, if "
    "it is built, and PyTorch's (sdpa) elsewhere.",
)
@click.option(
    "--deterministic/--no-deterministic",
    default=True,
    show_default=True,
    help="Sum the gradients of --attention cuda in one order, so that a run can be repeated bit "
    "for bit; any order is quicker. Other backends do as they always do.",
)
@click.option(
    "--compile/--no-compile",
    default=None,
    help="Fuse the model by torch.compile; it takes a minute to start.  [default: on a GPU]",
)
@click.option(
    "--cross-document/--no-cross-document",
    default=True,
    show_default=True,
    help="Let documents packed in one sequence see those before them, as in the paper, or keep "
    "them apart.",
)
@click.option(
    "--validation",
    metavar="PATH",
    shell_complete=paths,
    help="Sequences whose loss is measured, given as --data or --instructions is; 64 are used.",
)
@click.option(
    "--validation-every",
    type=COUNT,
    metavar="STEPS",
    help="How often.  [default: 1000, or a tenth of a short run]",
)
@click.option(
    "--checkpoint-every",
    type=COUNT,
    metavar="STEPS",
    help="How often.  [default: 1000, or a tenth of a short run]",
)
@click.option("--keep", type=COUNT, default=2, show_default=True, help="Checkpoints kept.")
@click.option(
    "--async-checkpoints/--no-async-checkpoints",
    default=True,
    show_default=True,
    help="Write checkpoints while training goes on, from a copy: 12 bytes more for each parameter "
    "of a rank, in the memory of its machine.",
)
@click.option(
    "--tokenizer",
    type=PATH,
    help="The .model file of the data.  [default: the embedded one, if the data is made with it]",
)
@seeing_options
@launch_options
@click.option(
    "-n",
    "--dry-run",
    is_flag=True,
    help="Print parameters, memory, FLOPs, GPU-hours and energy, and train nothing.",
)
@plan_options
def command(how: How, where: Where, seeing: Seeing, **options: Any) -> None:
    """Train a model; run the same command again to resume.

    Reads the sequences that `llama mix` makes, in their order, as often as --steps needs.
    Sequences from JSON lines are kept in RUN/data, at 2 bytes a token, while training goes on;
    where their number decides the length of the run, it waits for the last. A stopped run reads
    the same stream again.

    \b
      llama fetch github . | llama filter | llama tokenize | llama mix | llama train
      llama train --size 15m --data mixed --validation held-out --steps 2000
      llama train --from runs/15m --instructions chats.jsonl --validation held-out.jsonl
      llama train --size 33b --dry-run
      llama train --watch runs/3m
      llama train --size 65b --gpus 2048 --gpu a100-80gb --dry-run

    A stopped run continues from its newest whole checkpoint, to the same bits as one that was
    never stopped; a finished one says so. It may continue on any number of processes, and with
    any --tensor: each rank writes and reads its own part. SIGTERM and SIGUSR1 save a checkpoint and
    end with 75, Ctrl-C saves one and ends with 130; before the first step there is none to save. A
    second signal ends at once. A checkpoint that cannot be written is told, and training goes on.

    The log is RUN/log.jsonl, a JSON line a step: loss, lr, norm of the gradient, tokens, tokens/s
    in all and by GPU, MFU, memory (bytes, the most of any process), watts (null without a meter:
    NVIDIA's driver, or RAPL where it may be read), seconds waited for data, and seconds. MFU is
    (6N + 12 L d s) x tokens/s over the peak of the GPU's data sheet, or over the fastest matrix
    product measured at the start on a CPU. --watch shows it from elsewhere, and ends with 0 when
    the run has finished, with 75 when it has stopped. RUN/loss.png is drawn at checkpoints.
    """
    if seeing.watch:
        watch(seeing.watch, quiet=bool(options["quiet"]))
        return
    chosen = settle({**options, "asked": settings_as_toml()})
    if chosen.dry_run:
        for part in show(chosen, where):
            click.echo(part)
        return
    refuse(where)
    with unsaved_at_first():
        if start(how, chosen):
            return
        from llama_cli.commands._train import main

        with as_rank(verbose=chosen.verbose):
            main(chosen, seeing)

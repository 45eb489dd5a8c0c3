"""`llama train` in several processes: its options, and who starts what."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from llama_cli.commands._train_options import Options
from llama_cli.errors import LAUNCHER, LOST, Elsewhere, LlamaError, UsageError, one_line
from llama_cli.model.config import SIZES
from llama_cli.training.lines import SRUN, Lines
from llama_cli.training.place import Place, find_place, rank_and_size, rank_environment
from llama_cli.training.stop import unsaved

if TYPE_CHECKING:
    from llama_cli.stream.progress import Progress

F = TypeVar("F", bound=Callable[..., Any])

RESTARTS = 3  # torchrun's users' usual number; ours


@dataclass(frozen=True, slots=True)
class How:
    """The options that say where the processes are, by name."""

    processes: int | None
    nodes: str | None
    rdzv: str | None
    node_rank: int | None
    restarts: int
    print_launch: str | None


HOW = tuple(field.name for field in fields(How))


def launch_options(function: F) -> F:
    """Add the options, and hand the command a `How` of them."""

    @functools.wraps(function)
    def wrapped(**options: Any) -> Any:
        how = How(**{name: options.pop(name) for name in HOW})
        return function(how=how, **options)

    found: Any = wrapped
    for option in OPTIONS:
        found = option(found)
    return found  # type: ignore[no-any-return]


OPTIONS = (
    click.option(
        "--print-launch",
        is_flag=False,
        flag_value="all",
        type=click.Choice(["all", "torchrun", "sbatch"]),
        help="Print the torchrun line and the Slurm script that do the same, and start nothing.",
    ),
    click.option(
        "--restarts",
        type=click.IntRange(0),
        default=RESTARTS,
        show_default=True,
        metavar="N",
        help="How often in a row lost processes are replaced without a checkpoint in between.",
    ),
    click.option(
        "--node-rank",
        type=click.IntRange(0),
        metavar="N",
        help="This machine's number, from 0.  [default: as they come; in Slurm, as it says]",
    ),
    click.option(
        "--rdzv",
        metavar="HOST:PORT",
        help="Where the machines meet: one of them, and a free port of it.  [default: in Slurm]",
    ),
    click.option(
        "--nodes",
        metavar="N",
        help="Machines, each of which runs this command; FEWEST:MOST goes on when one is lost.  "
        "[default: 1, or Slurm's]",
    ),
    click.option(
        "--processes",
        type=click.IntRange(1),
        metavar="N",
        help="Processes on this machine.  [default: one a GPU]",
    ),
)


def start(how: How, options: Options) -> bool:
    """Start the processes that do the work, and see them to their end.

    Returns:
        False if this process is to do the work itself.
    """
    if how.print_launch:
        click.echo("\n".join(_lines(how, options)))
        return True
    place = find_place(os.environ, nodes=how.nodes, meet_at=how.rdzv, node_rank=how.node_rank)
    if place.role == "rank":
        os.environ.update(rank_environment(os.environ))
        return False
    if place.role == "allocation":
        _srun(place)
    # that a process has gone is ours to tell; torch reads it when it is loaded
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    processes = _processes(how, options, place)
    if processes == place.most == 1:
        return False
    _launch(how, options, place, processes)
    return True


@contextmanager
def unsaved_at_first() -> Iterator[None]:
    """Let a signal before the first step end this process as it ends a launcher of several.

    Raises:
        Interrupted: one came.
    """
    alone = LAUNCHER not in os.environ and rank_and_size(os.environ)[1] == 1
    with unsaved() if alone else nullcontext():
        yield


@contextmanager
def as_rank(*, verbose: bool) -> Iterator[None]:
    """Behave as a launcher expects of its processes, if this is one."""
    if LAUNCHER not in os.environ:
        yield
        return
    from llama_cli.training.launch import follow_launcher

    follow_launcher()
    try:
        yield
    except Exception as error:
        failed = _is_device_failure(error)
        if failed or (verbose and getattr(error, "exit_code", None) == LOST):
            _tell(error)
        if failed:
            raise Elsewhere(str(error), exit_code=LOST) from error
        raise


def _tell(error: Exception) -> None:
    """Say what this process saw, beside what the launcher says of it."""
    from llama_cli.stream.progress import tell

    what = one_line((str(error).splitlines() or [type(error).__name__])[0])
    tell(f"llama train: process {os.environ['RANK']}: {what}")


def _is_device_failure(error: Exception) -> bool:
    """Tell a GPU that failed from a mistake: another process may do better."""
    return type(error).__name__ == "AcceleratorError"  # torch's, since 2.8


def _processes(how: How, options: Options, place: Place) -> int:
    """Count the processes of this machine: one a GPU, unless --processes says otherwise."""
    from llama_cli.commands._model import pick_device

    if pick_device(options.device, "train") == "cpu":
        return how.processes or 1
    import torch

    here = torch.cuda.device_count()
    if how.processes and how.processes > here:
        raise UsageError(
            f"{how.processes} processes need as many GPUs, here are {here}",
            hint=f"llama train --processes {here}",
        )
    return how.processes or min(place.gpus or here, here)


def _launch(how: How, options: Options, place: Place, processes: int) -> None:
    from llama_cli.stream.progress import Progress
    from llama_cli.training.launch import Launch, launch

    if place.fewest == place.most:
        _refuse(options, processes * place.most)
    run = options.run or Path("runs") / options.size
    progress = Progress("train", quiet=options.quiet)
    with _kept_data(options, run, place, progress) as data:
        words = [*sys.argv[1:], *_from_stdin(), *data]
        launch(
            Launch(
                [sys.executable, "-m", "llama_cli", *words],
                processes,
                place,
                how.restarts,
                lambda: max((path.name for path in run.glob("checkpoint-*")), default=""),
                progress.say,
            )
        )


def _refuse(options: Options, world: int) -> None:
    """Refuse before anything is started what a process could only refuse.

    Raises:
        UsageError: the model or the batch does not divide over so many processes.
        LlamaError: the data cannot be trained on.
        NotReadyError: there is no such tokenizer, or no such checkpoint.
    """
    from llama_cli.parallel.mesh import check, shape
    from llama_cli.shards.grow import GROWING
    from llama_cli.tokenizer.bpe import Tokenizer
    from llama_cli.training.data import Sequences
    from llama_cli.training.start import Start

    mesh = shape(world, tensor=options.tensor, replicas=options.replicas)
    start = Start.find(options.start) if options.start else None
    size = (start.size or "custom") if start else options.size
    vocab_size = context = mesh.tensor  # of data that may still have to come: no matter here
    data = Path(options.data or "-")
    if data.is_dir() and not (data / GROWING).exists():
        found = Sequences(data)
        vocab_size, context = found.vocab_size, found.length
    config = (start.config if start else SIZES[options.size]).with_data(
        vocab_size=vocab_size, context=context
    )
    check(mesh, config, batch=options.batch or mesh.data, size=size)
    if options.tokenizer:
        Tokenizer.load(options.tokenizer)


@contextmanager
def _kept_data(
    options: Options, run: Path, place: Place, progress: Progress
) -> Iterator[list[str]]:
    """Say in words what the processes read; what is piped in is kept where all of them can.

    Raises:
        UsageError: several machines cannot read one pipe.
    """
    if place.most > 1:  # a first process among them keeps what is a file
        if "-" in (options.data, options.instructions):
            raise UsageError("several machines cannot read one pipe", hint="llama mix -o mixed")
        yield [] if options.instructions else ["--data", options.data or "mixed"]
    elif options.data and Path(options.data).is_dir():
        yield ["--data", options.data]
    else:
        with _kept_stream(options, run, progress) as data:
            yield data


@contextmanager
def _kept_stream(options: Options, run: Path, progress: Progress) -> Iterator[list[str]]:
    from llama_cli.commands._train_data import KEPT, is_stream, keep_data, where_from
    from llama_cli.training.lock import locked

    where = where_from(options)
    with ExitStack() as stack:
        if is_stream(where):
            with locked(run):  # raises if another run holds it
                pass
            keep_data(options, run, where, stack, progress)
            os.environ[KEPT] = "1"
        yield [] if options.instructions else ["--data", where]


def _from_stdin() -> list[str]:
    """Give as words what `--config -` said; a process that is started reads nothing there."""
    context = click.get_current_context()
    said = {name for name, (_, where) in context.meta["llama.origins"].items() if where == "-"}
    return [
        word
        for param in context.command.params
        if param.name in said
        and context.get_parameter_source(param.name) is ParameterSource.DEFAULT_MAP
        for word in _words(param, context.params.get(param.name))
    ]


def _srun(place: Place) -> NoReturn:
    """Let Slurm start this command on every machine of the allocation."""
    if not shutil.which("srun"):
        raise LlamaError(
            f"this is one of {place.most} machines, and there is no srun to start the others",
            hint="llama train --nodes 1",
        )
    elastic = ["--no-kill"] if place.fewest < place.most else []
    count = [f"--nodes={place.most}", f"--ntasks={place.most}", "--disable-status"]
    command = [sys.executable, "-m", "llama_cli", *sys.argv[1:], *_from_stdin()]
    os.execvp("srun", ["srun", *count, *SRUN, *elastic, *command])


def _lines(how: How, options: Options) -> Iterator[str]:
    place = Place(node_rank=how.node_rank)
    if how.nodes:
        place = find_place({}, nodes=how.nodes, meet_at=how.rdzv or "HOST", node_rank=how.node_rank)
    lines = Lines(
        list(_given()),
        how.processes,
        place,
        how.restarts,
        options.size,
        _program("torchrun", "torch.distributed.run"),
        _program("llama", "llama_cli"),
        on_gpu=options.device != "cpu",
    )
    wanted = how.print_launch
    if wanted == "sbatch":
        yield lines.sbatch()
        return
    if place.most == 1:
        yield from ["# one machine"] * (wanted == "all")
        yield lines.one_machine()
    if place.most > 1 or wanted == "all":
        yield from ["", "# several machines: this on each"] * (wanted == "all")
        yield lines.many_machines()
    if wanted == "all":
        yield from ("", "# Slurm: llama train … --print-launch sbatch | sbatch", lines.sbatch())


def _given() -> Iterator[str]:
    """Give every setting that is no default as words, whoever set it."""
    context = click.get_current_context()
    for param in context.command.params:
        source = context.get_parameter_source(str(param.name))
        given = source not in (None, ParameterSource.DEFAULT)
        if given and param.name in context.params and param.name not in HOW:
            yield from _words(param, context.params[str(param.name)])


def _words(param: click.Parameter, value: Any) -> list[str]:
    """Give an option as the command line has it."""
    if isinstance(value, bool):
        return [max(param.opts if value else param.secondary_opts, key=len)]
    return [max(param.opts, key=len), str(value)]


def _program(name: str, module: str) -> list[str]:
    """Name a program of this installation: shortly, if that is what the shell finds."""
    path = Path(sys.executable).with_name(name)
    if path.exists() and shutil.which(name) == str(path):
        return [name]
    return [sys.executable, "-m", module]

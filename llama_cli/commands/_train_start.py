"""`llama train --from`: what follows from a checkpoint, and what does not go with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_cli.commands._train_options import Options
from llama_cli.errors import LlamaError, UsageError

if TYPE_CHECKING:
    from llama_cli.training.start import Start

SMALLEST = "3m"  # what is trained where nothing is said
HELP = "llama train --help"


def settle(options: dict[str, Any]) -> Options:
    """Check what options say together, and fill in what the checkpoint of --from says.

    Raises:
        UsageError: they contradict each other.
        NotReadyError: there is no such checkpoint.
        LlamaError: it is of another size.
    """
    chosen = Options(**{**options, "size": options["size"] or SMALLEST})
    _refuse_contradictions(chosen)
    if chosen.start is None:
        return chosen
    from llama_cli.training.start import Start, nearest_size

    start = Start.find(chosen.start)
    name = start.size or "custom"
    if options["size"] and options["size"] != name:
        raise LlamaError(
            f"{start.checkpoint} is no {options['size']}: its width is {start.config.dim:,} "
            f"in {start.config.layers} layers",
            hint=f"llama train --from {chosen.start}",
        )
    purpose = "instructions" if chosen.instructions else "continued"
    tokenizer = start.tokenizer
    filled = {
        "size": start.size or nearest_size(start.config),
        "run": chosen.run or Path("runs") / f"{name}-{purpose}",
        "tokenizer": chosen.tokenizer or (tokenizer if tokenizer.is_file() else None),
    }
    return Options(**{**options, **filled})


def _refuse_contradictions(chosen: Options) -> None:
    lengths = {"--steps": chosen.steps, "--tokens": chosen.tokens, "--epochs": chosen.epochs}
    given = [name for name, value in lengths.items() if value]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} say the same, give one", hint=HELP)
    if chosen.instructions and chosen.data:
        raise UsageError("--instructions is the data, give it or --data", hint=HELP)
    if chosen.instructions and chosen.start is None:
        raise UsageError(
            "--instructions goes on from a model",
            hint=f"llama train --from runs/3m --instructions {chosen.instructions}",
        )


def refuse_tokenizer(options: Options, start: Start, wanted: str) -> None:
    """Check that tokens of a tokenizer mean to a model what it has learnt.

    Raises:
        LlamaError: they do not.
    """
    from llama_cli.tokenizer.bpe import Tokenizer

    path = start.tokenizer
    if path.is_file() and Tokenizer.load(path).sha256 != wanted:
        raise LlamaError(
            f"{start.checkpoint} was trained with another tokenizer than {options.tokenizer}",
            hint=f"llama train --from {options.start}",
        )

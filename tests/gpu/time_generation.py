"""Time how a model of the 7B shape is decoded, with CUDA graphs and without: `make gpu`, or

    python -m tests.gpu.time_generation --save generation.md

A token reads every weight but the embedding once, so its time is held against what copying takes
on the same GPU in the same run. Weights are random, in bf16, prompts too, and the likeliest token
is taken each time. A step is all that `llama generate` does for it, on the processor too; beside it
stands the GPU's part alone, up to the head, and of one row's all kernels. Prints tables, and adds
them to docs/benchmarks.md under today's date, as to every file named by --save, unless --wrong says
why they mean nothing.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch

from llama_cli.inference.backend import Piece
from llama_cli.inference.batch import Batch
from llama_cli.inference.graphs import PLAIN, Graphs, open_graphs
from llama_cli.inference.network import Network
from llama_cli.inference.rows import Row, Settings
from llama_cli.model.config import SIZES, ModelConfig
from llama_cli.model.transformer import Transformer
from llama_cli.records import Prompt
from tests.gpu import kernel_times, machine, table
from tests.gpu.time_attention import PAGE

EOS = 2
ROWS = (1, 32)
PROMPT, TOKENS = 128, 128  # tokens; ours
COPIED = 4 << 30  # bytes; ours: far more than a GPU's caches hold
COPIES = 10
WHOLE, ALONE = 1, 0.75  # ours: rows, and the share of copying that one row is to reach
STD = 0.02
FAR = 2_000  # places

Wait = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of a step of so many rows: all of it, and the GPU's part up to the head."""

    rows: int
    graphs: bool
    step: float
    states: float

    @property
    def tokens(self) -> float:
        """Tokens a second, of all rows."""
        return self.rows / self.step

    def share(self, weights: int, copying: float) -> float:
        """Return bytes of weights a second as a share of `copying`.

        >>> Timing(32, True, 0.004, 0.003).share(12_000_000_000, 4e12)
        0.75
        """
        return weights / self.step / copying


def network_of(config: ModelConfig, device: str, dtype: torch.dtype) -> Network:
    """Draw a model where it is to run. It never ends a text: that piece's logit is nothing."""
    with torch.device("meta"):
        model = Transformer(config).to(dtype)
    model = model.to_empty(device=device).eval()
    for weight in model.parameters():
        weight.data.normal_(0, STD) if weight.dim() > 1 else weight.data.fill_(1)
    model.output.weight.data[EOS] = 0
    return Network(model)


def weight_bytes(config: ModelConfig, size: int = 2) -> int:
    """Count the bytes of the weights that a token reads: all but an embedding that is no head.

    >>> round(weight_bytes(SIZES["7b"]) / 1e9, 2)
    13.21
    """
    return size * (config.parameters - (0 if config.tied else config.vocab_size * config.dim))


def copy_rate(device: str, size: int, wait: Wait) -> float:
    """Return bytes read and written a second, when the device copies so many to itself."""
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    times = []
    for _ in range(COPIES):
        begun = time.perf_counter()
        target.copy_(source)
        wait()
        times.append(time.perf_counter() - begun)
    return 2 * size / median(times)


def steps(network: Network, rows: int, prompt: int, tokens: int) -> list[float]:
    """Complete prompts twice; return the seconds of the second time's steps after its prompts."""
    vocabulary: Any = SimpleNamespace(vocab_size=network.config.vocab_size)
    batch, times = Batch(network, vocabulary, size=rows), []
    for turn in range(2):
        waiting = deque(_rows(network, rows, prompt, tokens))
        while waiting or batch.rows:
            reads = bool(waiting) or any(len(row.ids) - row.held > 1 for row in batch.rows)
            begun = time.perf_counter()
            batch.step(waiting)
            if turn and not reads:
                times.append(time.perf_counter() - begun)
    return times


def _rows(network: Network, rows: int, prompt: int, tokens: int) -> Iterator[Row]:
    settings = Settings(temperature=0, max_tokens=tokens)
    for ids in torch.randint(EOS + 1, network.config.vocab_size, (rows, prompt)).tolist():
        yield Row(Prompt("", ""), settings, 0, ids, prompt, prompt + tokens)


def states(network: Network, rows: int, at: int, count: int, wait: Wait) -> list[float]:
    """Return the seconds of `count` steps up to the head, at place `at`, after some to warm up."""
    step, times = step_of(network, rows, at), []
    for turn in range(2 * count):
        begun = time.perf_counter()
        step()
        wait()
        if turn >= count:
            times.append(time.perf_counter() - begun)
    return times


def step_of(network: Network, rows: int, at: int) -> Callable[[], object]:
    """Return what does a step up to the head, always the same."""
    cache = network.cache()
    cache.grow(rows, at + 1)
    pieces = [Piece(slot, at, 1) for slot in range(rows)]
    return lambda: network.states([EOS + 1] * rows, pieces, cache)


def measure(
    network: Network,
    graphs: Graphs,
    *,
    rows: Sequence[int] = ROWS,
    prompt: int = PROMPT,
    tokens: int = TOKENS,
    wait: Wait = torch.cuda.synchronize,
) -> Iterator[Timing]:
    """Time steps without graphs and with them.

    Raises:
        RuntimeError: nothing can be recorded.
    """
    for count in rows:
        for with_graphs in (False, True):
            network.graphs = graphs if with_graphs else None
            whole = median(steps(network, count, prompt, tokens))
            part = median(states(network, count, prompt + tokens // 2, max(8, tokens // 8), wait))
            if graphs.fault or (with_graphs and not graphs.held):
                raise RuntimeError(f"nothing was recorded: {graphs.fault or 'no step came twice'}")
            yield Timing(count, with_graphs, whole, part)


def lines(timings: Sequence[Timing], weights: int, copying: float) -> Iterator[str]:
    """Yield the table, and the verdict."""
    yield (
        f"Copying reads and writes {copying / 1e9:,.0f} GB/s; a token reads {weights / 1e9:.2f} GB "
        f"of weights. Greedy, after prompts of {PROMPT} tokens, medians of {TOKENS - 1} steps.\n"
    )
    yield "| rows | graphs | tokens/s | ms a step | up to the head | weights, GB/s | of copying |"
    yield "|---:|---|---:|---:|---:|---:|---:|"
    for each in timings:
        cells = (
            *(f"{each.rows}", "yes" if each.graphs else "no", f"{each.tokens:,.0f}"),
            *(f"{1e3 * each.step:.2f}", f"{1e3 * each.states:.2f}"),
            *(f"{weights / each.step / 1e9:,.0f}", f"{each.share(weights, copying):.2f}"),
        )
        yield f"| {' | '.join(cells)} |"
    yield f"\n{verdict(timings, weights, copying)}"


def verdict(timings: Sequence[Timing], weights: int, copying: float) -> str:
    """Say whether one row is read quickly enough."""
    [one] = [each for each in timings if each.graphs and each.rows == WHOLE]
    share = one.share(weights, copying)
    judged = "reached" if share >= ALONE else "not reached"
    return f"Target, one row with graphs at {ALONE:.2f} of copying: {share:.2f}, {judged}."


def far(network: Network, wait: Wait, at: int = FAR) -> str:
    """Say what a step of one row with graphs takes further on."""
    seconds = median(states(network, 1, at, 16, wait))
    return f"One row at place {at:,}: {1e3 * seconds:.2f} ms up to the head."


def trace(network: Network) -> list[kernel_times.Event]:
    """Return what the profiler saw of steps of one row with graphs."""
    step = step_of(network, 1, PROMPT + TOKENS // 2)
    for _ in range(PLAIN + 1):
        step()
    return kernel_times.traced(step)


def kernels(events: Sequence[kernel_times.Event], steps: int) -> Iterator[str]:
    """Yield a table of the kernels of so many steps, those that take most of one first."""
    times: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "kernel":
            times.setdefault(kernel_times.kernel(event["name"]), []).append(event["dur"])
    yield "| kernel | in a step | us each | us in a step |"
    yield "|---|---:|---:|---:|"
    for name, each in sorted(times.items(), key=lambda item: -sum(item[1])):
        cells = (f"{len(each) / steps:g}", f"{median(each):.1f}", f"{sum(each) / steps:,.0f}")
        yield f"| `{name}` | {' | '.join(cells)} |"
    whole = [duration for each in times.values() for duration in each]
    yield f"| all | {len(whole) / steps:g} | | {sum(whole) / steps:,.0f} |"


def main() -> None:
    """Print the report, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--save", action="append", default=[], type=Path, metavar="PATH")
    parser.add_argument("--wrong", default="", metavar="WHY", help="why the times mean nothing")
    options = parser.parse_args()
    graphs = open_graphs(torch.device("cuda")) if torch.cuda.is_available() else None
    if not graphs:
        raise SystemExit("nothing to time: no GPU here, or LLAMA_CUDA_GRAPHS=0")
    copying = copy_rate("cuda", COPIED, torch.cuda.synchronize)
    network = network_of(SIZES["7b"], "cuda", torch.bfloat16)
    found = [
        f"{machine.heading('decoding the 7B shape')}\n",
        *([f"**Something is wrong ({options.wrong}).**\n"] if options.wrong else []),
        *lines([*measure(network, graphs)], weight_bytes(SIZES["7b"]), copying),
        far(network, torch.cuda.synchronize),
        "\nThe kernels of one row, up to the head:\n",
        *kernels(trace(network), kernel_times.RUNS),
    ]
    print("\n".join(found), flush=True)
    for path in [*options.save, *([] if options.wrong else [PAGE])]:
        table.append(path, "\n".join(found))


if __name__ == "__main__":
    main()

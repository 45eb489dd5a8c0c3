"""Energy and carbon of a run of ours, from its training log.

The log's first line describes the run, `{"run": {"device", "processes", "threads", ...}}`; each
step has its `seconds` and the `tokens` seen so far. A step that was lost when a run stopped and
done again is in the log once, and counted once. Hours of the devices times their power is an
upper bound, as the paper's is: thermal design power is rarely drawn throughout. What had to be
assumed is said in `assumed`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from llama_cli.carbon.estimate import INTENSITY, PUE, Estimate, estimate
from llama_cli.errors import DataError, LlamaError, NotReadyError
from llama_cli.records import Json
from llama_cli.stream.reader import read_lines

CORE_WATTS = 10.0  # ours: server CPUs have a TDP of 4 W (EPYC 7763) to 9.4 W (Xeon 8375C) a core

# Thermal design power in watts, from NVIDIA's data sheets; the first name found decides.
GPU_WATTS = (
    ("A100-PCIE-40GB", 250.0),
    ("A100 80GB PCIe", 300.0),
    ("A100", 400.0),  # SXM; the paper's
    ("H200 NVL", 600.0),
    ("H200", 700.0),
    ("H100 PCIe", 350.0),
    ("H100 80GB HBM3", 700.0),
    ("V100-SXM2", 300.0),
    ("V100-PCIE", 250.0),
    ("L40S", 350.0),
    ("L4", 72.0),
    ("T4", 70.0),
    ("RTX 4090", 450.0),
    ("RTX 3090", 350.0),
)


@dataclass(frozen=True, slots=True)
class RunLog:
    """What a training log says of the work done."""

    device: str
    processes: int
    threads: int  # of one process
    steps: int
    seconds: float
    tokens: int

    @property
    def on_cpu(self) -> bool:
        """Tell processor cores from GPUs."""
        return self.device.startswith("cpu")

    @property
    def devices(self) -> int:
        """Count GPUs, or cores on a CPU."""
        return self.processes * (self.threads if self.on_cpu else 1)

    @property
    def device_hours(self) -> float:
        """GPU-hours, or core-hours on a CPU."""
        return self.seconds * self.devices / 3600


@dataclass(frozen=True, slots=True)
class Footprint:
    """The estimate for a log, what it rests on, and what a token cost."""

    log: RunLog
    estimate: Estimate
    assumed: tuple[str, ...]

    def as_json(self) -> Json:
        """Name every figure, inputs first."""
        return {
            "log": asdict(self.log),
            **self.estimate.as_json(),
            "joules_per_token": self.joules_per_token,
            "grams_per_million_tokens": self.grams_per_million_tokens,
            "assumed": list(self.assumed),
        }

    @property
    def joules_per_token(self) -> float:
        """Spread the energy, PUE included, over the tokens."""
        return self.estimate.mwh * 3.6e9 / self.log.tokens

    @property
    def grams_per_million_tokens(self) -> float:
        """Spread the carbon over the tokens: g CO2e a million of them."""
        return self.estimate.tonnes * 1e6 / (self.log.tokens / 1e6)


def watts_of(device: str) -> float | None:
    """Look up the power of one GPU by the name its driver gives it.

    >>> watts_of("NVIDIA A100-SXM4-80GB")
    400.0
    """
    return next((watts for name, watts in GPU_WATTS if re.search(rf"\b{name}\b", device)), None)


def footprint(
    log: RunLog, *, watts: float | None = None, pue: float = PUE, intensity: float = INTENSITY
) -> Footprint:
    """Estimate what the run of a log cost.

    Args:
        log: from `read_log`.
        watts: of one GPU or, on a CPU, of one core; else the table's or CORE_WATTS.
        pue: total over computing energy.
        intensity: kg CO2e/kWh.

    Raises:
        LlamaError: `watts` is not given and the device is not in the table.
    """
    assumed: tuple[str, ...] = ()
    if watts is None and log.on_cpu:
        watts = CORE_WATTS
        assumed = (f"{CORE_WATTS:g} W a core, memory and disks not counted",)
    elif watts is None:
        watts = watts_of(log.device)
        if watts is None:
            raise LlamaError(
                f"the power of '{log.device}' is not known", hint="llama carbon --power WATTS"
            )
        assumed = (f"full power of {watts:g} W throughout, host not counted",)
    return Footprint(
        log, estimate(log.device_hours, watts=watts, pue=pue, intensity=intensity), assumed
    )


def read_log(path: Path) -> RunLog:
    """Add up a training log, given as the file or as the directory of its run.

    Raises:
        NotReadyError: there is no log at `path`.
        DataError: a line is not one of a training log.
        LlamaError: the log has no step.
    """
    where = path / "log.jsonl" if path.is_dir() else path
    if not where.exists():
        raise NotReadyError(f"no training log at {where}", hint=f"llama train --run {path}")
    about: Json | None = None
    steps, seconds, tokens = 0, 0.0, 0
    for number, row in _rows(where):
        try:
            about = _about(row) if "run" in row else about
            if "seconds" in row:
                steps, seconds = steps + 1, seconds + float(row["seconds"])
                tokens = max(tokens, int(row["tokens"]))
        except (KeyError, TypeError, ValueError) as error:
            raise _not_a_log(where, number, f"{type(error).__name__}: {error}") from None
    if about is None or not tokens:
        raise LlamaError(f"{where}: no training step yet")
    return RunLog(
        device=str(about["device"]),
        processes=int(about["processes"]),
        threads=int(about["threads"]),
        steps=steps,
        seconds=seconds,
        tokens=tokens,
    )


def _rows(where: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of the log, up to a last line that is still being written."""
    broken: DataError | None = None
    for _, number, line in read_lines([str(where)]):
        if broken:
            raise broken
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            broken = _not_a_log(where, number, str(error))
            continue
        if not isinstance(row, dict):
            raise _not_a_log(where, number, "a JSON object is wanted")
        yield number, row


def _about(row: Json) -> Json:
    about: Json = row["run"]
    missing = {"device", "processes", "threads"} - about.keys()
    if missing:
        raise ValueError(f"the run lacks {', '.join(sorted(missing))}")
    return about


def _not_a_log(where: Path, number: int, found: str) -> DataError:
    return DataError(str(where), number, f"not a line of a training log ({found})")

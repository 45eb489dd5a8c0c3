"""From measured times to the tables of `make gpu`: rates, shares, a verdict. No GPU is needed here.

FLOPs by the usual convention: 4 L^2 D a head forward, halved for the mask, and 2.5 times that
backward, however many products a backward takes (Dao 2023, https://arxiv.org/abs/2307.08691,
section 4.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Part = Literal["forward", "backward", "both"]
PARTS: tuple[Part, ...] = ("forward", "backward", "both")
BACKWARD = 2.5  # times the forward's FLOPs; see above

OURS, ATOMICS = "ours, deterministic", "ours, atomics"
FLASH, EFFICIENT = "sdpa flash", "sdpa efficient"


@dataclass(frozen=True, slots=True)
class Shape:
    """What is attended to: queries and keys of one length, causal."""

    batch: int
    heads: int
    length: int
    size: int

    def flops(self, part: Part) -> float:
        """Count the operations that a rate is quoted in.

        >>> Shape(1, 1, 2, 64).flops("forward")
        512.0
        """
        forward = 4 * self.length**2 * self.size * self.heads * self.batch / 2
        return forward * {"forward": 1, "backward": BACKWARD, "both": 1 + BACKWARD}[part]


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians of one attention at one shape, in milliseconds; or `trouble`, why there are none."""

    attention: str
    shape: Shape
    forward: float = 0
    backward: float = 0
    trouble: str = ""

    def milliseconds(self, part: Part) -> float:
        return {
            "forward": self.forward,
            "backward": self.backward,
            "both": self.forward + self.backward,
        }[part]

    def rate(self, part: Part) -> float:
        """Return TFLOP/s."""
        return self.shape.flops(part) / self.milliseconds(part) / 1e9


@dataclass(frozen=True, slots=True)
class Target:
    """How fast an attention of ours is to be, as a multiple of another's speed."""

    part: Part
    ours: str
    theirs: str
    least: float


TARGETS = (  # ours
    Target("forward", OURS, FLASH, 0.8),
    Target("backward", ATOMICS, FLASH, 0.65),
    Target("backward", OURS, FLASH, 0.5),
    Target("both", OURS, EFFICIENT, 1.3),
    Target("both", ATOMICS, EFFICIENT, 1.3),
)


def rates(timings: Sequence[Timing], peaks: Mapping[Shape, float]) -> Iterator[str]:
    """Yield a table of TFLOP/s, forward / backward / both, with shares.

    `peaks` is what a matrix product reached beside each shape, TFLOP/s.
    """
    yield "| d | length | attention | TFLOP/s | of FA2 (sdpa flash) | of matrix peak |"
    yield "|---:|---:|---|---:|---:|---:|"
    for timing in timings:
        shape = timing.shape
        cells = [f"{shape.size}", f"{shape.length:,}", timing.attention, *_shares(timing, timings)]
        peak = peaks.get(shape)
        cells.append(_three(timing.rate(p) / peak for p in PARTS) if peak and _ran(timing) else "")
        yield _row(cells)


def _shares(timing: Timing, timings: Sequence[Timing]) -> tuple[str, str]:
    if not _ran(timing):
        return timing.trouble, ""
    rate = " / ".join(f"{timing.rate(part):.0f}" for part in PARTS)
    flash = find(timings, FLASH, timing.shape)
    return rate, _three(speed(timing, flash, part) for part in PARTS) if flash else ""


def _three(shares: Iterable[float]) -> str:
    return " / ".join(f"{share:.2f}" for share in shares)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ran(timing: Timing) -> bool:
    return not timing.trouble


def find(timings: Iterable[Timing], attention: str, shape: Shape) -> Timing | None:
    """Return the timing of `attention` at `shape`, if it ran."""
    mine = (x for x in timings if (x.attention, x.shape) == (attention, shape) and _ran(x))
    return next(mine, None)


def speed(ours: Timing, theirs: Timing, part: Part) -> float:
    """Return how many times faster ours is."""
    return theirs.milliseconds(part) / ours.milliseconds(part)


def verdict(timings: Sequence[Timing], targets: Sequence[Target] = TARGETS) -> Iterator[str]:
    """Yield a table of targets: what was reached at each length. The slowest length decides."""
    lengths = sorted({timing.shape.length for timing in timings})
    yield _row(["target", "d", "least", *(f"{length:,}" for length in lengths), "verdict"])
    yield "|---|---:|---:|" + "---:|" * len(lengths) + "---|"
    for size in sorted({timing.shape.size for timing in timings}, reverse=True):
        for target in targets:
            found = ratios(timings, target, size)
            cells = [f"{found[length]:.2f}" if length in found else "" for length in lengths]
            what = f"{target.part}: {target.ours} over {target.theirs}"
            yield _row([what, f"{size}", f"{target.least}", *cells, judge(found, target, lengths)])


def ratios(timings: Sequence[Timing], target: Target, size: int) -> dict[int, float]:
    """Return by length how many times faster ours is, where both ran."""
    found = {}
    for shape in {timing.shape for timing in timings if timing.shape.size == size}:
        ours, theirs = (find(timings, name, shape) for name in (target.ours, target.theirs))
        if ours and theirs:
            found[shape.length] = speed(ours, theirs, target.part)
    return found


def judge(found: Mapping[int, float], target: Target, lengths: Sequence[int]) -> str:
    """Say whether a target is reached.

    >>> judge({1024: 0.7, 2048: 0.9}, TARGETS[0], [1024, 2048])
    'not reached'
    """
    if any(ratio < target.least for ratio in found.values()):
        return "not reached"
    return "reached" if found and len(found) == len(lengths) else "not measured"


def memory(peaks: Mapping[str, int | str], shape: Shape) -> Iterator[str]:
    """Yield a table of the most bytes asked for, beyond the inputs, or of why there are none."""
    length = f"{shape.length:,}"
    yield f"| attention | memory beyond q, k, v and the gradient of out, at {length} (MB) |"
    yield "|---|---:|"
    for name, peak in peaks.items():
        yield _row([name, peak if isinstance(peak, str) else f"{peak / 1e6:.1f}"])


def append(page: Path, section: str) -> None:
    """Add a section to a page of Markdown, one empty line after what is there."""
    before = page.read_text(encoding="utf-8").rstrip("\n") + "\n\n" if page.exists() else ""
    page.write_text(f"{before}{section.strip()}\n", encoding="utf-8")

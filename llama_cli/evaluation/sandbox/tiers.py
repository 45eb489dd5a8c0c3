"""Which sandbox is used on this machine, found by running a program in each.

`auto` takes our namespaces before bubblewrap: `llama eval sandbox-check` finds the same attacks
stopped by both, and a program costs a fork instead of a start of bwrap and of Python. Where
neither can be made, nothing is run unless the user asks for it by name.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping

from llama_cli.errors import LlamaError, NotReadyError
from llama_cli.evaluation.sandbox.forked import Forked
from llama_cli.evaluation.sandbox.limits import Limits
from llama_cli.evaluation.sandbox.pool import Pool, Runner
from llama_cli.evaluation.sandbox.spawn import Spawn, bare, bubblewrap

TIERS: dict[str, Callable[[], Runner]] = {
    "namespaces": Forked,
    "bubblewrap": lambda: Spawn(bubblewrap, group=False),
}
UNSAFE = "unsafe"
LIMITS = Limits()


def open_pool(*, tier: str, jobs: int = 1, limits: Limits = LIMITS) -> Pool:
    """Start workers of one tier."""
    make = TIERS.get(tier) or (lambda: Spawn(bare, group=True))
    return Pool(tier, (make() for _ in range(jobs)), limits)


def choose(reasons: Mapping[str, str], *, unsafe: bool = False) -> str:
    """Name the tier to use: the first with no reason against it.

    Raises:
        NotReadyError: there is none, and `unsafe` is not allowed.
    """
    for tier, reason in reasons.items():
        if not reason:
            return tier
    if unsafe:
        return UNSAFE
    found = "; ".join(f"{tier}: {reason}" for tier, reason in reasons.items())
    raise NotReadyError(
        f"no sandbox for generated programs ({found})",
        hint="apt-get install bubblewrap, or --unsafe to run them without one",
    )


def tried() -> dict[str, str]:
    """Try each tier, and give the reason why it cannot be used; empty if it can."""
    return {tier: why_not(tier) for tier in TIERS}


def why_not(tier: str) -> str:
    """Run an empty program in a tier, and say what was in the way."""
    if sys.platform != "linux":
        return "Linux is needed"
    if tier == "bubblewrap" and not shutil.which("bwrap"):
        return "no bwrap on PATH"
    try:
        with open_pool(tier=tier) as pool:
            (result,) = pool.run(["pass"])
    except (LlamaError, OSError, ValueError) as error:
        return str(error)
    return result.detail

"""Sandboxes for tests: each tier that this machine allows, one pool for a whole module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

import pytest

from llama_cli.evaluation.sandbox.limits import Limits
from llama_cli.evaluation.sandbox.pool import Pool
from llama_cli.evaluation.sandbox.tiers import TIERS, open_pool, why_not

QUICK = Limits(cpu_seconds=3, wall_seconds=60.0)  # other work shares the cores

reason = cache(why_not)


def need(tier: str) -> None:
    """Skip where a tier is not to be had."""
    if why := reason(tier):
        pytest.skip(f"{tier}: {why}")


@pytest.fixture(scope="module", params=TIERS)
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """Every tier in its turn."""
    need(request.param)
    with open_pool(tier=request.param, jobs=min(2, os.cpu_count() or 1), limits=QUICK) as opened:
        yield opened


@pytest.fixture(scope="module")
def sandboxed() -> Iterator[Pool]:
    """The tier that would be used."""
    tier = next((tier for tier in TIERS if not reason(tier)), None)
    if tier is None:
        pytest.skip("no sandbox on this machine")
    with open_pool(tier=tier, jobs=2, limits=QUICK) as opened:
        yield opened

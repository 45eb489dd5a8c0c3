"""Estimates in words, in the unit that reads best."""

from __future__ import annotations

from llama_cli.carbon.estimate import Estimate
from llama_cli.carbon.log import Footprint


def energy(mwh: float) -> str:
    """Print an energy with two decimals, in MWh, kWh or Wh.

    >>> energy(449.839), energy(0.25), energy(0.0000015)
    ('449.84 MWh', '250.00 kWh', '1.50 Wh')
    """
    return _scaled(mwh, ("MWh", "kWh", "Wh"))


def carbon(tonnes: float) -> str:
    """Print a mass of CO2 equivalent with two decimals, in t, kg or g.

    >>> carbon(173.188), carbon(0.0000015)
    ('173.19 tCO2eq', '1.50 gCO2eq')
    """
    return _scaled(tonnes, ("tCO2eq", "kgCO2eq", "gCO2eq"))


def describe(found: Estimate, hours: str = "GPU-hours") -> str:
    """Show the two products of section 6, one a line."""
    left = f"{_count(found.device_hours)} {hours} x {found.watts:g} W x PUE {found.pue:g}"
    right = f"{energy(found.mwh)} x {found.intensity:g} kg CO2e/kWh"
    width = max(len(left), len(right))
    return f"{left:<{width}} = {energy(found.mwh)}\n{right:<{width}} = {carbon(found.tonnes)}"


def describe_log(found: Footprint) -> str:
    """Show what was done, what it cost, what a token cost, and what was assumed."""
    log = found.log
    return "\n".join(
        [
            f"{log.steps:,} steps, {log.tokens:,} tokens, {log.seconds:,.1f} s on "
            f"{log.devices} x {'CPU core' if log.on_cpu else log.device}",
            describe(found.estimate, "core-hours" if log.on_cpu else "GPU-hours"),
            f"{found.joules_per_token:.3g} J a token, "
            f"{found.grams_per_million_tokens:.3g} g CO2e a million tokens",
            *(f"assumed: {each}" for each in found.assumed),
        ]
    )


def _count(hours: float) -> str:
    return f"{round(hours, 2):,.10g}" if hours >= 1 else f"{hours:.3g}"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if value >= 1 or value == 0:
            return f"{value:,.2f} {unit}"
        value *= 1000
    return f"{value:,.2f} {units[-1]}"

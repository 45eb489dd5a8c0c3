"""Table 15 and the text of section 6: the published figures, and ours beside them.

Each row gives GPU-hours; energy and carbon follow from `estimate` with the paper's constants.
Two published energies are not what the formula rounds to: BLOOM's 475 MWh (the formula gives
476.47, and no rounding rule of the other rows gives 475) and LLaMA-65B's 449 (449.84, cut off
rather than rounded). All six carbon figures agree.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from llama_cli.carbon.estimate import INTENSITY, PUE, WATTS, Estimate, estimate
from llama_cli.records import Json

DEVICE = "A100-80GB"


@dataclass(frozen=True, slots=True)
class Published:
    """One row of Table 15, as printed."""

    model: str
    gpu_hours: int
    mwh: int
    tonnes: int

    @property
    def computed(self) -> Estimate:
        """Apply the paper's own formula to the row's GPU-hours."""
        return estimate(self.gpu_hours)

    @property
    def agrees(self) -> tuple[bool, bool]:
        """Say whether energy and carbon, computed and rounded, are those printed."""
        computed = self.computed
        return round(computed.mwh) == self.mwh, round(computed.tonnes) == self.tonnes


TABLE_15 = (
    Published("OPT-175B", 809_472, 356, 137),
    Published("BLOOM-175B", 1_082_880, 475, 183),
    Published("LLaMA-7B", 82_432, 36, 14),
    Published("LLaMA-13B", 135_168, 59, 23),
    Published("LLaMA-33B", 530_432, 233, 90),
    Published("LLaMA-65B", 1_022_362, 449, 173),
)

# Section 6, text: 2048 A100-80GB "for a period of approximately 5 months" cost about
# 2,638 MWh "and a total emission of 1,015 tCO2eq", for developing all the models.
DEVELOPMENT_GPUS = 2048
DEVELOPMENT_MWH = 2638
DEVELOPMENT_TONNES = 1015


@dataclass(frozen=True, slots=True)
class Development:
    """What the formula says of the whole development's 2,638 MWh."""

    tonnes: float
    gpu_hours: float
    days: float  # of all 2,048 GPUs
    final_mwh: float  # the four models of the table
    final_share: float

    @classmethod
    def from_paper(cls) -> Development:
        """Work backwards from the published energy."""
        hours = DEVELOPMENT_MWH * 1e6 / (WATTS * PUE)
        final = sum(row.computed.mwh for row in TABLE_15 if row.model.startswith("LLaMA"))
        return cls(
            tonnes=DEVELOPMENT_MWH * INTENSITY,
            gpu_hours=hours,
            days=hours / DEVELOPMENT_GPUS / 24,
            final_mwh=final,
            final_share=final / DEVELOPMENT_MWH,
        )


def table() -> str:
    """Lay out Table 15, computed beside published, and mark the cells that differ."""
    lines = [
        "Table 15: carbon footprint of training, in the same data center "
        f"({WATTS:.0f} W, PUE {PUE}, {INTENSITY} kg CO2e/kWh)",
        "",
        "                                           MWh                 tCO2eq",
        "model       GPU         GPU-hours   computed  published   computed  published",
        *map(_line, TABLE_15),
        "",
        *_notes(),
    ]
    return "\n".join(lines)


def as_json() -> Json:
    """Give the same table, and the development's total, to a program."""
    whole = Development.from_paper()
    return {
        "table_15": [_row(row) for row in TABLE_15],
        "development": {
            "gpus": DEVELOPMENT_GPUS,
            "published": {"mwh": DEVELOPMENT_MWH, "tonnes": DEVELOPMENT_TONNES},
            "computed": asdict(whole),
        },
    }


def _row(row: Published) -> Json:
    mwh, tonnes = row.agrees
    return {
        "model": row.model,
        "gpu": DEVICE,
        "gpu_hours": row.gpu_hours,
        "computed": {"mwh": row.computed.mwh, "tonnes": row.computed.tonnes},
        "published": {"mwh": row.mwh, "tonnes": row.tonnes},
        "agrees": {"mwh": mwh, "tonnes": tonnes},
    }


def _line(row: Published) -> str:
    mwh, tonnes = ("" if agrees else "*" for agrees in row.agrees)
    computed = row.computed
    return (
        f"{row.model:<12}{DEVICE:<11}{row.gpu_hours:>10,}"
        f"{computed.mwh:>11.2f}{row.mwh:>10}{mwh:<1}"
        f"{computed.tonnes:>11.2f}{row.tonnes:>10}{tonnes:<1}"
    ).rstrip()


def _notes() -> list[str]:
    odd = ", ".join(
        f"{row.model} {row.mwh} against {row.computed.mwh:.2f}"
        for row in TABLE_15
        if not row.agrees[0]
    )
    whole = Development.from_paper()
    return [
        f"* printed in the paper, but its own formula rounds to another figure: {odd}.",
        "  The tonnes of those rows follow from either figure.",
        "",
        f"Whole development (section 6): {DEVELOPMENT_GPUS:,} GPUs for about 5 months, published "
        f"{DEVELOPMENT_MWH:,} MWh and {DEVELOPMENT_TONNES:,} tCO2eq.",
        f"  The formula makes that energy {whole.tonnes:,.1f} tCO2eq and "
        f"{whole.gpu_hours / 1e6:.2f} M GPU-hours, {whole.days:.0f} days of every GPU; the four",
        f"  models of the table are {whole.final_mwh:.0f} MWh, {whole.final_share:.1%} of it.",
    ]

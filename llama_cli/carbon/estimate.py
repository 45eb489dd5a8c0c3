"""Energy and carbon of a training run (LLaMA, section 6).

    Wh    = GPU-h x (GPU power consumption) x PUE
    tCO2e = MWh x 0.385

The paper takes the power for an A100-80GB at its thermal design power, 400 W, a PUE of 1.1,
and the carbon intensity of the US national average, 0.385 kg CO2e/kWh. All three are options
of `llama carbon`; the defaults are the paper's. Pure arithmetic: no device is asked anything.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

WATTS = 400.0  # section 6: "Thermal Design Power (TDP)" of the A100-80GB
PUE = 1.1  # section 6: power usage effectiveness of the data center
INTENSITY = 0.385  # section 6: kg CO2e/kWh, "the US national average carbon intensity factor"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What was put in, and the energy and carbon that come out of it."""

    device_hours: float  # GPU-hours, or core-hours of a CPU
    watts: float
    pue: float
    intensity: float  # kg CO2e/kWh
    mwh: float
    tonnes: float  # CO2e

    def as_json(self) -> dict[str, float]:
        """Name every figure, inputs first."""
        return asdict(self)


def estimate(
    device_hours: float, *, watts: float = WATTS, pue: float = PUE, intensity: float = INTENSITY
) -> Estimate:
    """Turn device-hours into MWh and tonnes of CO2e.

    >>> found = estimate(1_022_362)  # LLaMA-65B, Table 15
    >>> round(found.mwh, 2), round(found.tonnes, 2)
    (449.84, 173.19)

    Raises:
        ValueError: a figure is negative, or `pue` is below 1, its least possible value.
    """
    if min(device_hours, watts, intensity) < 0:
        raise ValueError("hours, watts and carbon intensity cannot be negative")
    if pue < 1:
        raise ValueError(f"pue is total over computing energy, so at least 1, not {pue}")
    mwh = device_hours * watts * pue / 1e6  # Wh to MWh
    return Estimate(device_hours, watts, pue, intensity, mwh, mwh * intensity)

"""Watts from counters of energy: RAPL's files, and the driver of NVIDIA GPUs by a stand-in."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from llama_cli.carbon.meter import Meter, of_gpus, of_processors


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def zone(root: Path, name: str, what: str, microjoules: int, top: int = 10**9) -> Path:
    found = root / name
    found.mkdir(parents=True)
    (found / "name").write_text(f"{what}\n")
    (found / "energy_uj").write_text(f"{microjoules}\n")
    (found / "max_energy_range_uj").write_text(f"{top}\n")
    return found


def count(found: Path, microjoules: int) -> None:
    (found / "energy_uj").write_text(f"{microjoules}\n")


def test_packages_and_their_memory_are_added_up_and_nothing_twice(tmp_path: Path) -> None:
    clock = Clock()
    package = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    core = zone(tmp_path, "intel-rapl:0:0", "core", 0)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 0)
    again = zone(tmp_path, "intel-rapl-mmio:0", "package-0", 0)
    meter = of_processors(clock, tmp_path)
    assert meter() is None  # no second has passed
    clock.now += 2
    for found, joules in ((package, 100), (core, 80), (memory, 20), (again, 100)):
        count(found, joules * 10**6)
    assert meter() == 60.0


def test_the_platform_is_more_than_its_packages(tmp_path: Path) -> None:
    clock = Clock()
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    whole = zone(tmp_path, "intel-rapl:1", "psys", 0)
    meter = of_processors(clock, tmp_path)
    clock.now += 1
    count(whole, 45 * 10**6)
    assert meter() == 45.0


def test_a_counter_that_begins_anew_is_followed(tmp_path: Path) -> None:
    clock = Clock()
    package = zone(tmp_path, "intel-rapl:0", "package-0", 90 * 10**6, top=100 * 10**6)
    meter = of_processors(clock, tmp_path)
    clock.now += 1
    count(package, 5 * 10**6)
    assert meter() == 15.0


def test_readings_are_a_second_apart(tmp_path: Path) -> None:
    clock = Clock()
    package = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = of_processors(clock, tmp_path)
    clock.now += 1
    count(package, 10 * 10**6)
    assert meter() == 10.0
    clock.now += 0.5
    count(package, 99 * 10**6)
    assert meter() == 10.0
    clock.now += 0.5
    assert meter() == 89.0


def test_without_counters_or_the_right_to_read_them_there_is_no_figure(tmp_path: Path) -> None:
    clock = Clock()
    assert of_processors(clock, tmp_path / "none")() is None
    package = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = of_processors(clock, tmp_path)
    (package / "energy_uj").unlink()
    clock.now += 5
    assert meter() is None


class Driver:
    """libnvidia-ml with two GPUs; each call counts their energy up."""

    def __init__(self, init: int = 0) -> None:
        self.init, self.millijoules = init, {"GPU-a": 0, "GPU-b": 0}

    def nvmlInit_v2(self) -> int:
        return self.init

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        known = list(self.millijoules)
        if uuid.decode() not in known:
            return 6
        handle._obj.value = known.index(uuid.decode()) + 1
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: ctypes.c_void_p, count: Any) -> int:
        assert handle.value
        count._obj.value = list(self.millijoules.values())[handle.value - 1]
        return 0


def test_gpus_are_found_by_their_uuids_and_added_up() -> None:
    clock, driver = Clock(), Driver()
    meter, one = of_gpus(["GPU-b", "GPU-a"], clock, driver), of_gpus(["GPU-b"], clock, driver)
    clock.now += 2
    driver.millijoules = {"GPU-a": 600_000, "GPU-b": 800_000}
    assert meter() == 700.0
    assert one() == 400.0


def test_a_gpu_that_the_driver_does_not_know_has_no_figure() -> None:
    clock = Clock()
    meter = of_gpus(["GPU-a", "GPU-c"], clock, Driver())
    clock.now += 2
    assert meter() is None
    assert of_gpus(["GPU-a"], clock, Driver(init=9))() is None
    assert of_gpus([], clock, Driver())() is None


def test_a_reading_that_fails_once_is_no_figure_and_then_counting_begins_again() -> None:
    clock, counts = Clock(), iter([0.0, None, 50.0, 80.0])
    meter = Meter(lambda: next(counts), clock)
    found = []
    for _ in range(3):
        clock.now += 1
        found.append(meter())
    assert found == [None, None, 30.0]

"""Where a run goes on: what its directory holds is compared with what is asked, and looked over.

Settings that decide the weights are kept at the start, and others refused: a run that went on with
them would be neither the one nor the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llama_cli.errors import LlamaError, naming
from llama_cli.training.checkpoint import (
    TRAINER,
    about,
    clear_leftovers,
    forget,
    glance,
    newest,
    step_of,
)
from llama_cli.training.job import Job, attention_of
from llama_cli.training.settings import OLDER
from llama_cli.training.spike import Skipped

SETTINGS, CONFIG = "settings.json", "config.toml"


def place_to_go_on(job: Job, say: Callable[[str], None]) -> tuple[Path | None, Skipped]:
    """Give the checkpoint to continue from, whose bytes are right, and what the run skips.

    One that does not know of batches left out before it is of steps that were undone. Every rank
    calls it.

    Raises:
        LlamaError: the directory holds a run with other settings, or ranks see another one.
    """
    mesh = job.mesh
    if mesh.first:
        _open(job)
    mesh.wait()
    if not all(mesh.gathered((job.run / SETTINGS).exists())):
        raise LlamaError(
            f"{job.run} is not the same directory on all machines",
            hint="llama train --run ON_A_SHARED_DISK",
        )
    skipped = mesh.told(Skipped.load(job.run) if mesh.first else Skipped())
    while found := newest(job.run, mesh, say):
        step, known = mesh.told(_known(found) if mesh.first else (0, Skipped()))
        undone = min((each.step for each in skipped.left if each not in known.left), default=step)
        if step <= undone:
            for each in known.left:
                skipped.add(each)
            break
        if mesh.first:
            forget(job.run, after=undone)
        mesh.wait()
    return found, skipped


def _known(found: Path) -> tuple[int, Skipped]:
    """Give the step of a checkpoint, and the batches it knows to be left out."""
    return step_of(found), Skipped.from_json(about(found).get("skipped", ()))


def _open(job: Job) -> None:
    """Check the directory against the job, and clear it up."""
    if not (job.run / SETTINGS).exists():
        attention_of(job)  # raises before settings are written that its cure would contradict
    _same_run(job)
    clear_leftovers(job.run)
    if job.asked:
        _put(job.run / CONFIG, job.asked)


def _same_run(job: Job) -> None:
    path, wanted = job.run / SETTINGS, job.decisive()
    begun = path if path.exists() else _settings_kept(job.run)
    if begun:
        _compare(job, _held(begun), wanted)
    if begun != path:
        _put(path, json.dumps(wanted, indent=2) + "\n")


def _settings_kept(run: Path) -> Path | None:
    """Give the settings as a checkpoint has them, which outlive a lost file."""
    found = glance(run)
    return found / TRAINER if found else None


def _compare(job: Job, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        if held.get(name) != value:
            raise LlamaError(
                f"{job.run} holds a run with {_difference(name, held.get(name), value)}",
                hint="llama train --run ANOTHER, or the settings it was begun with",
            )


def _put(path: Path, text: str) -> None:
    """Write a file that is whole or not there."""
    part = path.with_name(f".{path.name}.part")
    with naming(str(path)):
        part.write_text(text, encoding="utf-8")
        part.rename(path)


def _held(path: Path) -> Mapping[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        held = None
    if not isinstance(held, dict):
        raise LlamaError(f"{path}: damaged", hint="llama train --run ANOTHER")
    return {**OLDER, **held}


def _difference(name: str, held: object, wanted: object) -> str:
    if name == "data":
        return "other data"
    if name == "from":
        return "other first weights"
    if isinstance(held, dict) and isinstance(wanted, dict):
        name = next(key for key in wanted if held.get(key) != wanted[key])
        held, wanted = held.get(name), wanted[name]
    return f"{name} {held}, not {wanted}"

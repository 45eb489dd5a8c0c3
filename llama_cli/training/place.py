"""Where the processes of a run are: on this machine, on several, in a Slurm allocation.

    here        one process; nothing to start
    rank        this is one of the processes already: torchrun, Slurm or `launch` started it
    launcher    one process a GPU is to be started here, on every machine
    allocation  Slurm gave several machines, and this is the script on the first: `srun` starts
                the launchers

A rank is told who it is as torchrun tells it: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR,
MASTER_PORT. Imports no torch; the environment is the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from llama_cli.errors import UsageError

Role = Literal["here", "rank", "launcher", "allocation"]

PORT = 29500  # torchrun's
SLURM_PORTS = 20_000  # the first of those that jobs share out by their number; ours
SLURM_PORT_COUNT = 10_000  # below the ports that Linux gives to anybody, from 32,768 on
NO_STEP = 0xFFFF_FFF0  # Slurm numbers what is no step (batch script, interactive shell) from here
TOLD = ("RANK", "WORLD_SIZE")  # numbers, as torchrun tells them
TOLD_TOO = ("LOCAL_RANK", "MASTER_PORT")  # with both; Kubernetes has its own: tcp://10.0.0.1:80
EXAMPLE = "llama train --nodes 2 --rdzv HOST:29500"


@dataclass(frozen=True, slots=True)
class Place:
    """What this process has to do, and with whom."""

    role: Role = "here"
    fewest: int = 1  # machines that are enough to go on
    most: int = 1
    host: str = ""  # the machine where all meet; empty for one machine
    port: int = PORT
    node_rank: int | None = None  # the machine's place among the others; None: as it comes
    gpus: int | None = None  # of this machine, if Slurm says

    @property
    def machines(self) -> str:
        """Name how many as --nodes takes it.

        >>> Place(fewest=2, most=4).machines
        '2:4'
        """
        return str(self.most) if self.fewest == self.most else f"{self.fewest}:{self.most}"


def find_place(
    environment: Mapping[str, str],
    *,
    nodes: str | None = None,
    meet_at: str | None = None,
    node_rank: int | None = None,
) -> Place:
    """Say what this process is, from --nodes, --rdzv, --node-rank and the environment.

    Raises:
        UsageError: they do not go together, or the environment says what cannot be.
    """
    rank_and_size(environment)  # refuses what cannot be
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return Place("rank")
    fewest, most = parse_nodes(nodes) if nodes else (1, 1)
    if meet_at:
        return _by_hand(nodes, fewest, most, meet_at, node_rank)
    if not nodes or most > 1:
        place = _in_slurm(environment, nodes)
        if place:
            return place
    if most > 1:
        raise UsageError("--nodes needs --rdzv, where the machines meet", hint=EXAMPLE)
    return Place()


def rank_and_size(environment: Mapping[str, str]) -> tuple[int, int]:
    """Say which of how many processes this is: the first of one, unless it was told otherwise.

    >>> rank_and_size({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"})
    (1, 2)
    >>> rank_and_size({"WORLD_SIZE": "2"})  # as some containers have it
    (0, 1)

    Raises:
        UsageError: a variable is no number, is missing, or no process has that rank.
    """
    found = _wholes(environment, TOLD)
    if len(found) < len(TOLD):
        return 0, 1
    _wholes(environment, TOLD_TOO)
    rank, size = found
    if rank >= size:
        raise UsageError(
            f"RANK {rank} is not among WORLD_SIZE {size}, 0 to WORLD_SIZE - 1", hint="unset RANK"
        )
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if size > 1 and not environment.get(name):
            raise UsageError(
                f"WORLD_SIZE is {size}, and {name}, where the processes meet, is not set",
                hint="torchrun sets both; or unset RANK",
            )
    return rank, size


def _by_hand(
    nodes: str | None, fewest: int, most: int, meet_at: str, node_rank: int | None
) -> Place:
    if not nodes:
        raise UsageError("--rdzv needs --nodes, the number of machines", hint=EXAMPLE)
    if node_rank is not None and node_rank >= most:
        raise UsageError(
            f"--node-rank {node_rank} is not among {most} machines, 0 to {most - 1}",
            hint=f"llama train --node-rank {most - 1}",
        )
    host, port = parse_address(meet_at)
    return Place("launcher", fewest, most, host, port, node_rank)


def _in_slurm(environment: Mapping[str, str], nodes: str | None) -> Place | None:
    """Read what Slurm says, if this runs under it.

    With a task for each GPU, as some write `srun`, the tasks are the ranks themselves.
    """
    if "SLURM_JOB_ID" not in environment:
        return None
    number = _number(environment, "SLURM_STEP_ID")
    step = number is not None and number < NO_STEP
    count = _number(
        environment,
        *(["SLURM_STEP_NUM_NODES"] if step else []),
        "SLURM_NNODES",
        "SLURM_JOB_NUM_NODES",
    )
    tasks = _number(environment, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if step else None
    if step and tasks and count and tasks > count:
        return Place("rank")
    gpus = _number(environment, "SLURM_GPUS_ON_NODE")
    if not count or count == 1:
        return Place(gpus=gpus)
    fewest, most = parse_nodes(nodes) if nodes else (count, count)
    names = (*(["SLURM_STEP_NODELIST"] if step else []), "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    return Place(
        "launcher" if step else "allocation",
        min(fewest, count),
        min(most, count),
        first_host(next((environment[name] for name in names if name in environment), "")),
        slurm_port(environment["SLURM_JOB_ID"]),
        _number(environment, "SLURM_NODEID") if step else None,
        gpus,
    )


def rank_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Say as torchrun does what Slurm says to a task that is a rank; nothing if it is said.

    >>> said = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[3-4]", "SLURM_NTASKS": "4",
    ...     "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
    >>> for item in rank_environment(said).items(): print(*item)
    RANK 3
    WORLD_SIZE 4
    LOCAL_RANK 1
    MASTER_ADDR n3
    MASTER_PORT 20007
    """
    if "RANK" in environment:
        return {}
    hosts = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
    gpus = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")  # one, if each task has its own
    local = _whole("SLURM_LOCALID", environment["SLURM_LOCALID"])
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment.get("SLURM_STEP_NUM_TASKS") or environment["SLURM_NTASKS"],
        "LOCAL_RANK": str(local % len(gpus) if gpus[0] else local),
        "MASTER_ADDR": first_host(hosts),
        "MASTER_PORT": str(slurm_port(environment["SLURM_JOB_ID"])),
    }


def _number(environment: Mapping[str, str], *names: str) -> int | None:
    named = (name for name in names if environment.get(name))
    return next((_whole(name, environment[name]) for name in named), None)


def _wholes(environment: Mapping[str, str], names: Sequence[str]) -> list[int]:
    return [_whole(name, environment[name]) for name in names if name in environment]


def _whole(name: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text):
        raise UsageError(f"{name} is '{text}', not a number", hint=f"unset {name}")
    return int(text)


def slurm_port(job: str) -> int:
    """Give each job a port of its own on the first machine.

    >>> slurm_port("1234567")
    24567
    """
    return SLURM_PORTS + int(job) % SLURM_PORT_COUNT


def first_host(nodes: str) -> str:
    """Give the first name of a Slurm list of nodes.

    >>> first_host("gpu[008-011,17],login1"), first_host("a-[3,5]-ib"), first_host("one,two")
    ('gpu008', 'a-3-ib', 'one')
    """
    first = re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", nodes)
    return first.split(",")[0]


def parse_nodes(text: str) -> tuple[int, int]:
    """Read a number of machines, or the fewest and the most.

    Raises:
        UsageError: it is neither.

    >>> parse_nodes("4"), parse_nodes("2:4")
    ((4, 4), (2, 4))
    """
    found = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    fewest, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 0 < fewest <= most:
        raise UsageError(
            f"--nodes {text} is neither a number of machines nor FEWEST:MOST", hint=EXAMPLE
        )
    return fewest, most


def parse_address(text: str) -> tuple[str, int]:
    """Read HOST or HOST:PORT.

    Raises:
        UsageError: it is neither.

    >>> parse_address("node1:1234"), parse_address("node1"), parse_address("[::1]:7")
    (('node1', 1234), ('node1', 29500), ('::1', 7))
    """
    found = re.fullmatch(r"(\[[^\]]+\]|[^:\s]+)(?::(\d{1,5}))?", text)
    if not found or int(found[2] or PORT) > 65_535:
        raise UsageError(f"--rdzv {text} is not HOST:PORT", hint=EXAMPLE)
    return found[1].strip("[]"), int(found[2] or PORT)

"""What starts a run without `llama` starting it: torchrun's line, and a script for Slurm."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from llama_cli.training.place import PORT, Place

SRUN = ("--ntasks-per-node=1", "--cpu-bind=none", "--kill-on-bad-exit=0")  # launchers agree
GPUS = 8  # a machine's, where nobody says: the paper's had as many


@dataclass(frozen=True, slots=True)
class Lines:
    """Everything that the lines say."""

    words: Sequence[str]  # after `llama train`, without where and how many
    processes: int | None  # on a machine; None for one a GPU, or for one without GPUs
    place: Place
    restarts: int
    name: str  # of the job
    torchrun: Sequence[str] = ("torchrun",)
    llama: Sequence[str] = ("llama",)
    on_gpu: bool = True

    def one_machine(self) -> str:
        """Give torchrun's line for a machine alone.

        >>> Lines([], 8, Place(), 3, "7b").one_machine()
        'torchrun --standalone --nproc-per-node 8 --max-restarts 3 -m -- llama_cli train'
        """
        return self._torchrun("--standalone")

    def many_machines(self) -> str:
        """Give torchrun's line for each of several machines.

        >>> place = Place("launcher", 2, 4, "node1", 29500)
        >>> Lines([], None, place, 3, "7b").many_machines().split(" --nproc")[0]
        'torchrun --nnodes 2:4 --rdzv-backend c10d --rdzv-endpoint node1:29500 --rdzv-id llama'
        """
        place = self.place
        nodes = place.machines if place.most > 1 else "2"
        host, port = (place.host, place.port) if place.host else ("HOST", PORT)
        if place.node_rank is not None:  # c10d would number the machines as they come
            meet = ["--node-rank", str(place.node_rank)]
            meet += ["--master-addr", host, "--master-port", str(port)]
        else:
            meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{host}:{port}"]
            meet += ["--rdzv-id", "llama"]
        return self._torchrun("--nnodes", nodes, *meet)

    def sbatch(self) -> str:
        """Give a script that goes on, job after job, until the run has ended."""
        place = self.place
        elastic = ["--no-kill"] if place.fewest < place.most else []
        gpus = self.processes or place.gpus or GPUS
        srun = ["srun", *SRUN, *elastic]
        options = ["--nodes", place.machines] if elastic else []
        if self.processes:
            options += ["--processes", str(self.processes)]
        command = [*srun, *self.llama, "train", *self.words, *options]
        command += ["--restarts", str(self.restarts)]
        lines = SBATCH.format(
            name=f"llama-{self.name}",
            nodes=max(place.most, 1),
            gpus=f"#SBATCH --gpus-per-node={gpus}\n" if self.on_gpu else "",
            each="starts a process for each GPU" if self.on_gpu else "starts the processes",
            elastic="#SBATCH --no-kill                # go on with the machines that are left\n"
            if elastic
            else "",
            command=shlex.join(command),
        )
        return lines.rstrip("\n")

    def _torchrun(self, *where: str) -> str:
        each = str(self.processes or ("gpu" if self.on_gpu else 1))
        line = [*self.torchrun, *where, "--nproc-per-node", each]
        line += ["--max-restarts", str(self.restarts)]
        # "--": else torchrun takes our --run for its --run-path
        line += ["-m", "--", "llama_cli", "train", *self.words]
        return shlex.join(line)


SBATCH = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1      # which {each}
{gpus}#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@600        # ten minutes before the end: save, and end with 75
#SBATCH --requeue
{elastic}#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

{command}
code=$?
if [ "$code" -eq 75 ]; then      # saved, not finished: this job again, from the checkpoint
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""

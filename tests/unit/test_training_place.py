"""What a process is, by its options and by what Slurm and torchrun say."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from llama_cli.cli import main
from llama_cli.errors import UsageError
from llama_cli.training.lines import Lines
from llama_cli.training.place import Place, find_place, rank_and_size, rank_environment

# what sbatch tells the script, and srun the tasks, for four machines of eight GPUs
SCRIPT = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_JOB_NUM_NODES": "4",
    "SLURM_NNODES": "4",
    "SLURM_NTASKS": "4",
    "SLURM_NODEID": "0",
    "SLURM_PROCID": "0",
    "SLURM_JOB_NODELIST": "gpu[08-10,12]",
    "SLURM_GPUS_ON_NODE": "8",
}
TASK = {
    **SCRIPT,
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_NODES": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[08-10,12]",
    "SLURM_NODEID": "2",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
MET = ("gpu08", 24567)  # the first machine, and a port by the job's number


def test_without_anything_the_process_works_here() -> None:
    assert find_place({}) == Place()
    assert find_place({}, nodes="1") == Place()


def test_a_process_that_torchrun_started_starts_no_others() -> None:
    told = {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert find_place({**TASK, **told}, nodes="4", meet_at="a:1").role == "rank"
    assert rank_environment(told) == {}


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"])
@pytest.mark.parametrize("text", ["x", "", "-1", "1.5"])
def test_a_variable_of_torchruns_that_is_no_number_is_named(name: str, text: str) -> None:
    told = {"RANK": "0", "WORLD_SIZE": "1"}
    with pytest.raises(UsageError, match=f"^{name} is '{text}', not a number$") as caught:
        find_place({**told, name: text})
    assert caught.value.hint == f"unset {name}"


def test_a_port_that_another_program_told_of_is_no_matter_without_a_rank() -> None:
    assert rank_and_size({"MASTER_PORT": "tcp://10.0.0.1:80", "LOCAL_RANK": "x"}) == (0, 1)


def test_a_number_of_slurms_that_is_none_is_named() -> None:
    with pytest.raises(UsageError, match=r"^SLURM_NNODES is 'many', not a number$"):
        find_place({**SCRIPT, "SLURM_NNODES": "many"})


@pytest.mark.parametrize("command", ["train --size 3m", "eval piqa --data .", "generate x"])
def test_every_command_that_torchrun_starts_says_what_is_wrong(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, command.split(), env={"RANK": "0", "WORLD_SIZE": "x"})
    words = f"llama {command.split()[0]}: WORLD_SIZE is 'x', not a number\n"
    assert (done.exit_code, done.stderr) == (2, f"{words}  try: unset WORLD_SIZE\n")


def test_a_rank_is_among_the_ranks_and_knows_where_they_meet() -> None:
    met = {"MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert rank_and_size({"RANK": "1", "WORLD_SIZE": "2", **met}) == (1, 2)
    assert rank_and_size({"RANK": "0", "WORLD_SIZE": "1"}) == (0, 1)
    with pytest.raises(UsageError, match="RANK 2 is not among WORLD_SIZE 2"):
        rank_and_size({"RANK": "2", "WORLD_SIZE": "2", **met})
    with pytest.raises(UsageError, match="and MASTER_PORT, where the processes meet, is not set"):
        rank_and_size({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a"})


def test_a_rank_without_a_size_or_a_size_without_a_rank_means_one_process() -> None:
    assert rank_and_size({"RANK": "3"}) == (0, 1)
    assert rank_and_size({"WORLD_SIZE": "4"}) == (0, 1)


def test_several_machines_meet_where_they_are_told_to() -> None:
    found = find_place({}, nodes="2:4", meet_at="node1:77", node_rank=3)
    assert found == Place("launcher", 2, 4, "node1", 77, 3)
    assert find_place({}, nodes="2", meet_at="node1").port == 29500


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nodes": "2"}, "--nodes needs --rdzv"),
        ({"meet_at": "a:1"}, "--rdzv needs --nodes"),
        ({"nodes": "0", "meet_at": "a"}, "--nodes 0 is neither"),
        ({"nodes": "4:2", "meet_at": "a"}, "--nodes 4:2 is neither"),
        ({"nodes": "two", "meet_at": "a"}, "--nodes two is neither"),
        ({"nodes": "2", "meet_at": "a:b"}, "--rdzv a:b is not HOST:PORT"),
        ({"nodes": "2", "meet_at": "a:99999"}, "--rdzv a:99999 is not HOST:PORT"),
        ({"nodes": "2", "meet_at": "a", "node_rank": 2}, "--node-rank 2 is not among 2 machines"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        find_place({}, **options)


def test_the_script_of_an_allocation_has_the_others_started() -> None:
    assert find_place(SCRIPT) == Place("allocation", 4, 4, *MET, None, 8)
    inside = {**SCRIPT, "SLURM_STEP_ID": str(0xFFFF_FFFA)}  # a shell that salloc opened
    assert find_place(inside).role == "allocation"


def test_a_task_of_each_machine_launches_there() -> None:
    assert find_place(TASK) == Place("launcher", 4, 4, *MET, 2, 8)
    assert find_place(TASK, nodes="3:9") == Place("launcher", 3, 4, *MET, 2, 8)


def test_one_machine_of_an_allocation_needs_no_others() -> None:
    assert find_place(TASK, nodes="1") == Place()
    assert find_place({**SCRIPT, "SLURM_NNODES": "1"}) == Place(gpus=8)


def test_a_task_for_each_gpu_is_a_rank() -> None:
    task = {**TASK, "SLURM_STEP_NUM_TASKS": "32", "SLURM_PROCID": "17", "SLURM_LOCALID": "1"}
    assert find_place(task).role == "rank"
    assert rank_environment(task) == {
        "RANK": "17",
        "WORLD_SIZE": "32",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "gpu08",
        "MASTER_PORT": "24567",
    }
    bound = {**task, "CUDA_VISIBLE_DEVICES": "3"}  # it sees no other
    assert rank_environment(bound)["LOCAL_RANK"] == "0"


def lines(place: Place, processes: int | None = 8) -> Lines:
    return Lines(["--data", "a b"], processes, place, 3, "33b")


def test_words_are_quoted_for_the_shell() -> None:
    assert lines(Place()).one_machine().endswith("-m -- llama_cli train --data 'a b'")


def test_a_number_of_its_own_needs_torchruns_static_rendezvous() -> None:
    line = lines(Place("launcher", 2, 2, "node1", 77, 1)).many_machines()
    assert "--nnodes 2 --node-rank 1 --master-addr node1 --master-port 77 " in line


def test_without_a_number_of_processes_torchrun_counts_gpus() -> None:
    assert "--nproc-per-node gpu" in lines(Place(), None).one_machine()


def test_without_gpus_there_is_one_process_and_no_gpu_is_asked_for() -> None:
    lines = Lines([], None, Place(), 3, "7b", on_gpu=False)
    assert "--nproc-per-node 1 " in lines.one_machine()
    assert "gpu" not in lines.sbatch().lower()
    several = Lines([], 4, Place(), 3, "7b", on_gpu=False)
    assert "--nproc-per-node 4 " in several.one_machine()
    assert "gpu" not in several.sbatch().lower()


def test_the_script_is_whole() -> None:
    script = lines(Place("launcher", 4, 4, "HOST")).sbatch()
    asked = [line.split("#SBATCH ")[1].split("  ")[0] for line in script.splitlines()[1:11]]
    assert asked == [
        "--job-name=llama-33b",
        "--nodes=4",
        "--ntasks-per-node=1",
        "--gpus-per-node=8",
        "--exclusive",
        "--time=24:00:00",
        "--signal=USR1@600",
        "--requeue",
        "--open-mode=append",
        "--output=%x-%j.log",
    ]
    assert script.startswith("#!/bin/bash\n")
    assert "llama train --data 'a b' --processes 8 --restarts 3\n" in script


def test_an_elastic_job_survives_a_machine() -> None:
    script = lines(Place("launcher", 2, 4, "HOST")).sbatch()
    assert "#SBATCH --no-kill " in script
    assert " --no-kill llama train" in script
    assert "--nodes 2:4" in script


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (75, True), (1, False)])
def test_a_job_that_saved_is_queued_again(tmp_path: Path, code: int, requeued: bool) -> None:
    (tmp_path / "srun").write_text(f"#!/bin/sh\nexit {code}\n")
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho $* > {tmp_path}/said\n")
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", lines(Place()).sbatch()],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"},
        check=False,
    )
    assert done.returncode == code
    assert (tmp_path / "said").exists() is requeued

"""A task that is asked for one solution, and the same by the vote of many (Minerva's maj1@k).

Lewkowycz et al., 2022, https://arxiv.org/abs/2206.14858, section 2.2; LLaMA, Table 7, has both.
"""

from __future__ import annotations

from dataclasses import replace

from llama_cli.evaluation.kinds.reasoning import Reasoning
from llama_cli.evaluation.task import Figures, Task

OPEN = (
    "new tokens and, for votes, Minerva's temperature 0.6 and top-p 0.95 are not the paper's words"
)


def with_votes(task: Task, votes: int, reported: Figures) -> tuple[Task, Task]:
    """Give a task, and the same in which so many solutions vote."""
    assert isinstance(task.kind, Reasoning)
    voted = replace(
        task,
        name=f"{task.name}@{votes}",
        metric=f"maj1@{votes}",
        kind=replace(task.kind, votes=votes),
        reported=reported,
    )
    return task, voted

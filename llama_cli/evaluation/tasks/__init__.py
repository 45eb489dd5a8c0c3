"""One file a task; adding one is a file, and its name here."""

from llama_cli.evaluation.task import Task
from llama_cli.evaluation.tasks import (
    arc_challenge,
    arc_easy,
    bits_per_byte,
    boolq,
    crows_pairs,
    gsm8k,
    hellaswag,
    humaneval,
    math,
    mbpp,
    mmlu,
    nq_open,
    openbookqa,
    piqa,
    race_high,
    race_middle,
    realtoxicityprompts,
    siqa,
    triviaqa,
    truthfulqa,
    winogender,
    winogrande,
)

ALL = (
    bits_per_byte.TASK,
    boolq.TASK,
    piqa.TASK,
    siqa.TASK,
    hellaswag.TASK,
    winogrande.TASK,
    arc_easy.TASK,
    arc_challenge.TASK,
    openbookqa.TASK,
    nq_open.TASK,
    triviaqa.TASK,
    race_middle.TASK,
    race_high.TASK,
    *math.TASKS,
    *gsm8k.TASKS,
    *humaneval.TASKS,
    *mbpp.TASKS,
    mmlu.TASK,
    *realtoxicityprompts.TASKS,
    crows_pairs.TASK,
    winogender.TASK,
    *truthfulqa.TASKS,
)

TASKS: dict[str, Task] = {task.name: task for task in ALL}

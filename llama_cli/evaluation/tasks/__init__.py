"""One file a task; adding one is a file, and its name here."""

from llama_cli.evaluation.task import Task
from llama_cli.evaluation.tasks import arc_easy, bits_per_byte, piqa

MODULES = (bits_per_byte, piqa, arc_easy)

TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in MODULES}

"""lm-evaluation-harness on requests that are given to it: run by a Python that has it.

    LLAMA_BENCH_PEER JOB.json FOUND.json

A job names a model of transformers, sets of pairs to score with and without a begin mark, prompts
to complete, and rows for tasks of its own. Each set is timed by the CPU seconds of this process.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")

import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: query
doc_to_choice: choices
doc_to_target: gold
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


def main() -> None:
    """Do the job."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    job = json.loads(Path(sys.argv[1]).read_text())
    found: dict[str, Any] = {"score": {}, "seconds": {}}
    for bos in (True, False):
        model = HFLM(
            job["model"], device="cpu", dtype="float32", batch_size=job["batch"], add_bos_token=bos
        )
        for name, pairs in job["score"].items():
            if not bos and name in job["bos_only"]:
                continue
            score = _score(model, pairs)
            seconds, found["score"][f"{name} {bos}"] = timed(score)
            found["seconds"].setdefault(name, seconds)
        if bos:
            found["tasks"] = _tasks(model, job["tasks"], Path(sys.argv[2]).parent, found["seconds"])
            model.batch_size_per_gpu = job["batch_completed"]
            found["seconds"]["complete"], found["complete"] = timed(_complete(model, job))
    Path(sys.argv[2]).write_text(json.dumps(found))


def _score(model: HFLM, pairs: list[list[str]]) -> Callable[[], Any]:
    asked = [
        Instance("loglikelihood", {}, tuple(pair), number) for number, pair in enumerate(pairs)
    ]
    return lambda: model.loglikelihood(asked, disable_tqdm=True)


def _complete(model: HFLM, job: dict[str, Any]) -> Callable[[], Any]:
    how = {"until": job["until"], "max_gen_toks": job["max_tokens"], "do_sample": False}
    asked = [
        Instance("generate_until", {}, (prompt, how), number)
        for number, prompt in enumerate(job["complete"])
    ]
    return lambda: model.generate_until(asked, disable_tqdm=True)


def _tasks(
    model: HFLM, tasks: dict[str, list[Any]], folder: Path, spent: dict[str, float]
) -> dict[str, list[float]]:
    """Evaluate as tasks from files, and give accuracy and accuracy by characters."""
    for name, rows in tasks.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, file=file))
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = {}
    for name in tasks:
        seconds, result = timed(
            lambda name=name: simple_evaluate(
                model, tasks=[name], task_manager=manager, bootstrap_iters=0, log_samples=False
            )
        )
        spent[f"task {name}"] = seconds
        figures = result["results"][name]
        found[name] = [figures["acc,none"], figures["acc_norm,none"]]
    return found


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    """Give the CPU seconds of this process, and what was found."""
    start = time.process_time()
    value = act()
    return time.process_time() - start, value


if __name__ == "__main__":
    main()

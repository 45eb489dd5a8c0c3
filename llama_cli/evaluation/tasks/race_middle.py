"""RACE-middle, exams for pupils of 12 to 15. LLaMA, Table 6."""

from __future__ import annotations

from llama_cli.evaluation.tasks._race import race

TASK = race("middle", {"7B": 61.1, "13B": 61.6, "33B": 64.1, "65B": 67.9})

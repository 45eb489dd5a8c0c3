"""RACE-high, exams for pupils of 15 to 18. LLaMA, Table 6."""

from __future__ import annotations

from llama_cli.evaluation.tasks._race import race

TASK = race("high", {"7B": 46.9, "13B": 47.2, "33B": 48.3, "65B": 51.6})

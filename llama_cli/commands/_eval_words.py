"""The commands that are words after `llama eval`, and the module of each; imports nothing.

A configuration file has a table for each, which every command knows by name.
"""

from __future__ import annotations

WORDS = {
    "render": "_eval_render",
    "answer": "_eval_answer",
    "grade": "_eval_grade",
    "summarise": "_eval_summarise",
    "overlap": "_eval_overlap",
    "fit-scorer": "_eval_fit_scorer",
    "check": "_eval_check",
    "compare": "_eval_compare",
    "report": "_eval_report",
    "sandbox-check": "_eval_sandbox_check",
}

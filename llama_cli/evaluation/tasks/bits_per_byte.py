"""Bits per byte of held-out documents: the code length a model gives to unseen text.

The sum of -log2 p over a document's tokens, from its begin mark on, over its UTF-8 bytes:
comparable between tokenizers, which a loss a token is not. The paper gives no such figure;
it is what tells small models apart while their accuracy is still at chance.
"""

from __future__ import annotations

from llama_cli.evaluation.kinds.documents import Documents
from llama_cli.evaluation.task import Task

TASK = Task(
    name="bits_per_byte",
    metric="bits_per_byte",
    prompt=lambda row: "",
    kind=Documents(),
    note="a document longer than the context is scored in windows that follow each other "
    "with one token of context, the last reaching back to be full",
    scale=1,
)

"""What the shell offers where click knows of no names: files, sources and tasks.

    llama filter raw<TAB>     llama fetch git<TAB>     llama eval pi<TAB>

Without it an argument that may be a path, and `-` or an address too, would offer nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llama_cli.commands._eval_words import WORDS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def paths(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell offer its files and directories."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def tasks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the tasks of an evaluation, and its stages where one may stand."""
    from click.shell_completion import CompletionItem

    from llama_cli.evaluation.tasks import TASKS

    stages = WORDS if ctx.info_name == "eval" and not ctx.params.get("tasks") else ()
    return [CompletionItem(name) for name in (*stages, *TASKS) if name.startswith(incomplete)]

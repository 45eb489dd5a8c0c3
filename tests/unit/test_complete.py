"""What the shell offers after `llama`, as click's completion asks for it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest
from click.shell_completion import ShellComplete

from llama_cli.cli import COMMANDS, main
from llama_cli.commands._eval_words import WORDS
from llama_cli.commands._options import Worded


def offered(*words: str) -> list[tuple[str, str]]:
    """Complete the last of the words."""
    *args, incomplete = words
    items = ShellComplete(main, {}, "llama", "_LLAMA_COMPLETE").get_completions(args, incomplete)
    return [(item.type, item.value) for item in items]


def names(*words: str) -> list[str]:
    return [value for _, value in offered(*words)]


def test_sources_that_are_built_are_offered() -> None:
    assert names("fetch", "") == ["common_crawl", "github", "files"]


def test_a_task_or_a_stage_is_offered_and_after_a_task_only_tasks() -> None:
    assert names("eval", "re")[:2] == ["render", "report"]
    assert "report" not in names("eval", "piqa", "re")
    assert names("eval", "render", "mm") == names("eval", "check", "mm") == ["mmlu"]


def words_of_commands() -> Iterator[tuple[list[str], click.Command]]:
    ctx = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(ctx, name)
        assert command is not None
        yield [name], command
    evaluation = main.get_command(ctx, "eval")
    assert isinstance(evaluation, Worded)
    for stage in WORDS:
        yield ["eval", stage], evaluation.word(stage)


def takes_paths(param: click.Parameter) -> bool:
    wanted = re.search(r"^\W*(FILE|PATH|DIR|INPUT|RUN|A|B)\b", param.metavar or "")
    return bool(wanted) or isinstance(param.type, click.Path)


@pytest.mark.parametrize("shape", ["option", "argument"])
def test_files_are_offered_wherever_a_path_is_taken(shape: str) -> None:
    seen = 0
    for words, command in words_of_commands():
        before = [*words, "github"] if words == ["fetch"] else words
        for param in filter(takes_paths, command.params):
            if param.param_type_name != shape:
                continue
            at = [*before, param.opts[-1]] if shape == "option" else before
            if param.name != "b":  # after A, as A itself
                assert offered(*at, "x") in ([("file", "x")], [("dir", "x")]), (words, param.name)
                seen += 1
    assert seen > 7

"""Imports point down, and click stays at the top (the picture of docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shell import ROOT

PACKAGE = ROOT / "llama_cli"
BASE = {"__init__", "records", "errors", "config"}
BELOW_ALL = {*BASE, "stream", "engines"}

# what each room may import besides itself; an arrow that is not here may not be drawn
MAY: dict[str, set[str]] = {
    "records": set(),
    "errors": set(),
    "config": {"errors"},
    "engines": BASE,
    "stream": {*BASE, "engines"},
    "kernels": {*BASE, "cuda_ext"},
    "tokenizer": BELOW_ALL,
    "shards": BELOW_ALL,
    "model": {*BELOW_ALL, "kernels"},
    "overlap": BELOW_ALL,
    "mixture": {*BELOW_ALL, "shards"},
    "parallel": {*BELOW_ALL, "model"},
    "inference": {*BELOW_ALL, "model", "tokenizer", "kernels"},
    "serving": {*BELOW_ALL, "inference", "tokenizer"},
    "sources": BELOW_ALL,
    "filters": {*BELOW_ALL, "overlap"},
    "training": {*BELOW_ALL, "mixture", "shards", "parallel", "model", "kernels", "tokenizer"},
    "evaluation": {
        *BELOW_ALL,
        "inference",
        "parallel",
        "model",
        "tokenizer",
        "shards",
        "overlap",
    },
    "carbon": BELOW_ALL,
}
TOP = {"cli", "commands", "__main__"}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    part = path.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    found = set()
    for name in imported(path):
        first, _, rest = name.partition(".")
        if first == "cuda_ext":
            found.add("cuda_ext")
        elif first == "llama_cli":
            found.add(rest.partition(".")[0] or "__init__")
    return {
        name
        for name in found
        if name == "cuda_ext" or (PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists()
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = room(path)
    if own in TOP or own == "__init__":
        return
    assert rooms_imported(path) - MAY[own] - {own, "__init__"} == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_click_stays_in_the_commands(path: Path) -> None:
    if room(path) not in TOP:
        assert "click" not in {name.partition(".")[0] for name in imported(path)}


def test_every_room_of_the_tree_is_drawn() -> None:
    assert {room(path) for path in FILES} - TOP - {"__init__"} == set(MAY)


def test_nothing_but_streams_and_the_top_touches_standard_streams() -> None:
    for path in FILES:
        if room(path) in {*TOP, "stream", "config"}:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            touches = isinstance(node, ast.Attribute) and node.attr in {"stdin", "stdout"}
            prints = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            assert not touches, f"{path}:{node.lineno}"
            assert not prints, f"{path}:{node.lineno}"


def test_every_module_says_what_it_is() -> None:
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path

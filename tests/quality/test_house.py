"""The house in order: version, changelog, start-up, help, paper table."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import llama_cli
from llama_cli.cli import COMMANDS, main
from tests.reference import ENVIRONMENT, names, words
from tests.reference import found as command
from tests.shell import ROOT, sh

HEAVY = {
    *("torch", "numpy", "sentencepiece", "zstandard", "rich", "matplotlib", "fsspec"),
    *("starlette", "uvicorn"),
}


def test_the_changelog_begins_with_the_version() -> None:
    versions = re.findall(r"^## \[(\d\S*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == llama_cli.__version__


def test_setup_has_the_version() -> None:
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == llama_cli.__version__


def test_commands_are_listed_in_the_order_data_flows() -> None:
    names = ["fetch", "filter", "tokenize", "mix", "train", "eval", "generate", "carbon"]
    assert list(COMMANDS) == names


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_is_the_first_sentence_of_the_help(name: str) -> None:
    assert (command(name).help or "").split("\n")[0] == COMMANDS[name]


@pytest.mark.parametrize("name", names())
def test_every_help_has_an_example(name: str) -> None:
    assert f"llama {name}" in (command(name).help or "")


@pytest.mark.parametrize("name", names())
def test_every_option_says_what_it_does(name: str) -> None:
    silent = [p.name for p in command(name).params if isinstance(p, click.Option) and not p.help]
    assert silent == []


@pytest.mark.parametrize(
    "arguments", ["--help", "--version", *(f"{name} --help" for name in names())]
)
def test_help_imports_nothing_heavy(arguments: str) -> None:
    script = (
        "import sys; from llama_cli.cli import main\n"
        f"try: main({arguments.split()!r})\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert HEAVY & set(done.stderr.split()) == set()


def test_help_is_quick() -> None:
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "llama_cli", "--help"], cwd=ROOT, capture_output=True, check=True
        )
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5  # 0.15 is the aim on a quiet machine; a loaded one may be slow


def test_the_reference_is_what_help_prints() -> None:
    done = sh(f"{sys.executable} -m cogapp --check docs/reference/*.md", ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def examples() -> Iterator[tuple[str, str, str]]:
    """Yield (where, command, arguments) of each `llama COMMAND …` in docs, help and hints."""
    pages = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/quickstart.sh"]
    texts = {page: (ROOT / page).read_text(encoding="utf-8") for page in pages}
    texts |= {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("docs/*.md")}
    texts |= {name: command(name).help or "" for name in names()} | {"llama": main.help or ""}
    for path in ROOT.glob("llama_cli/**/*.py"):
        hints = re.findall(r'hint=f?"(.*?)"', path.read_text(encoding="utf-8"))
        texts[str(path.relative_to(ROOT))] = "\n".join(
            re.sub(r"{.*?}", "X", hint) for hint in hints
        )
    for where, text in texts.items():
        lines = text.replace("\\\n", " ")
        for name, rest in re.findall(rf"\bllama ({'|'.join(COMMANDS)})\b([^|>`#\n<]*)", lines):
            word = next(
                (each for each in words(name) if f"{name}{rest} ".startswith(f"{each} ")), name
            )
            yield where, word, f"{name}{rest}".removeprefix(word)


def test_every_example_uses_options_that_there_are() -> None:
    checked = 0
    for where, name, rest in examples():
        known = command(name)
        context = click.Context(known, info_name=name)
        try:
            known.make_parser(context).parse_args(shlex.split(rest))
        except click.UsageError as error:
            pytest.fail(f"{where}: llama {name}{rest}: {error.format_message()}")
        checked += 1
    assert checked > 50


def test_every_command_has_a_man_page_with_its_options(tmp_path: Path) -> None:
    done = sh(f"{sys.executable} -m tests.reference {tmp_path}", ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    pages = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert set(pages) == {"llama.1", *(f"llama-{name}.1" for name in COMMANDS)}
    assert ".SH NAME\nllama\\-filter \\- Clean documents" in pages["llama-filter.1"]
    for name in COMMANDS:
        told = [p for each in (name, *words(name)) for p in command(each).params]
        options = [o for p in told if isinstance(p, click.Option) for o in p.opts]
        page = pages[f"llama-{name}.1"].replace("\\-", "-")
        assert [option for option in options if option not in page] == []


@pytest.mark.skipif(not shutil.which("groff"), reason="no groff to read man pages with")
def test_a_man_page_reads_without_a_warning(tmp_path: Path) -> None:
    script = f"{sys.executable} -m tests.reference {tmp_path} && groff -man -ww -Tutf8 -z"
    done = sh(f"{script} {tmp_path}/llama.1 {tmp_path}/llama-train.1", ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_environment_variable_that_is_read_is_documented() -> None:
    read = re.compile(r"""(?:environ|getenv)\S*?[\[(]["'](\w+)["']""")
    files = [ROOT / "setup.py", *ROOT.glob("llama_cli/**/*.py"), *ROOT.glob("cuda_ext/*.py")]
    found = {name for path in files for name in read.findall(path.read_text(encoding="utf-8"))}
    assert {"LLAMA_TRACEBACK", "CUDA_HOME", "OMP_WAIT_POLICY"} <= found
    documented = {name for names in ENVIRONMENT for name in names.split(", ")}
    assert found - documented == set()


def test_every_exit_code_is_documented() -> None:
    text = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert listed == {0, 1, 2, 3, 75, 130, 141, 143}


def test_every_row_of_the_paper_table_names_files_that_exist() -> None:
    rows = [
        line for line in (ROOT / "docs/paper.md").read_text().splitlines() if line.startswith("| ")
    ]
    paths = [
        path for row in rows[1:] for path in re.findall(r"`([\w/]+\.(?:py|md|cu))(?:::\w+)?`", row)
    ]
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_test_that_the_paper_table_names_exists() -> None:
    table = (ROOT / "docs/paper.md").read_text()
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", table):
        assert f"def {name}(" in (ROOT / path).read_text(), (path, name)


def test_the_tree_has_the_agreed_top_level() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    top = {Path(line).parts[0] for line in tracked.stdout.splitlines()}
    assert top - {name for name in top if name.startswith(".")} == {
        "llama_cli",
        "cuda_ext",
        "docs",
        "tests",
        "setup.py",
        "CHANGELOG.md",
        "README.md",
        "LICENSE",
        "Makefile",
        "pyproject.toml",
        "constraints.txt",
        "CONTRIBUTING.md",
        "MANIFEST.in",
    }


def test_options_are_those_agreed_on() -> None:
    """A new option, or one that goes, is a decision: write it into options.txt with the change."""
    path = ROOT / "tests" / "quality" / "options.txt"
    found = [
        f"{name} {'/'.join(sorted([*p.opts, *p.secondary_opts], key=len))}"
        for name in names()
        for p in sorted(command(name).params, key=lambda p: str(p.name))
    ]
    if os.environ.get("RECORD"):
        path.write_text("\n".join(found) + "\n", encoding="utf-8")
    assert found == path.read_text(encoding="utf-8").splitlines()

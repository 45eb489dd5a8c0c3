"""`llama eval sandbox-check` as a process, and what it says where there is no sandbox."""

import re
import shutil

import pytest
from click.testing import CliRunner

from llama_cli.commands._eval_sandbox_check import command
from llama_cli.errors import LlamaError
from llama_cli.evaluation.sandbox import probes, tiers
from tests.sandboxes import need
from tests.shell import LLAMA, sh

# in a user namespace of its own, root may say that there are to be no more
FORBID = "unshare --user --map-root-user sh -c 'echo 0 > /proc/sys/user/max_user_namespaces; {}'"


def test_the_table_says_what_is_stopped_and_which_sandbox_is_used(tmp_path):
    need("namespaces")
    done = sh("llama eval sandbox-check", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert re.match(r"attack +namespaces", lines[0])
    assert re.fullmatch(r"loop without end +(blocked *)+", lines[21])
    assert lines[-1] == "used: namespaces"
    assert "open" not in done.stdout


def test_help_and_options_are_its_own(tmp_path):
    done = sh("llama eval sandbox-check --help", tmp_path)
    assert "Usage: python -m llama_cli eval sandbox-check [OPTIONS]" in done.stdout
    done = sh("llama eval sandbox-check --data x", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "llama eval sandbox-check: no such option '--data'" in done.stderr


def test_where_there_is_no_sandbox_that_is_an_error_with_its_cure(tmp_path):
    if not shutil.which("unshare") or sh(FORBID.format("true"), tmp_path).returncode:
        pytest.skip("no user namespace in which to forbid them")
    done = sh(FORBID.format(f"exec {LLAMA} eval sandbox-check"), tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert first.startswith("llama eval sandbox-check: no sandbox for generated programs (namespa")
    assert second == "  try: apt-get install bubblewrap, or --unsafe to run them without one"


def test_the_unsafe_way_is_shown_only_on_request_and_is_never_chosen_over_another(monkeypatch):
    asked = []
    monkeypatch.setattr(tiers, "why_not", lambda tier: "" if tier == "bubblewrap" else "forbidden")
    monkeypatch.setattr(probes, "check", lambda tier: asked.append(tier) or [("a", "blocked")])
    done = CliRunner().invoke(command, ["--unsafe"])
    assert (done.exit_code, asked) == (0, ["bubblewrap", "unsafe"])
    assert done.output.splitlines() == [
        "attack  bubblewrap  unsafe",
        "a       blocked     blocked",
        "",
        "namespaces: not here, forbidden",
        "used: bubblewrap",
    ]
    asked.clear()
    CliRunner().invoke(command, [])
    assert asked == ["bubblewrap"]


def test_what_the_sandbox_in_use_leaves_open_is_an_error(monkeypatch):
    monkeypatch.setattr(tiers, "why_not", lambda tier: "")
    found = {"namespaces": "open", "bubblewrap": "blocked"}
    monkeypatch.setattr(probes, "check", lambda tier: [("dig", found[tier]), ("fly", "blocked")])
    done = CliRunner().invoke(command, [])
    assert isinstance(done.exception, LlamaError)
    assert str(done.exception) == "the namespaces sandbox leaves open: dig"
    assert "dig     open        blocked" in done.output

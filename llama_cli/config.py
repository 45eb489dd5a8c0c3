"""Settings from files, under the environment and the command line.

    flags > LLAMA_<COMMAND>_<OPTION> > ./llama.toml > $XDG_CONFIG_HOME/llama/config.toml > defaults

A file has one table a command, with the option's long name as key:

    [filter]
    max-line = 500

`--config FILE` replaces both files; `--config -` reads stdin. A name that no command or
option has is an error with the nearest one, never a setting silently ignored.
"""

from __future__ import annotations

import difflib
import os
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llama_cli.errors import UsageError

Origins = dict[str, tuple[Any, str]]  # option → value, and the file it came from


def settings(command: str, known: Mapping[str, Iterable[str]], explicit: str | None) -> Origins:
    """Collect what the files say for one command.

    Args:
        command: the command whose table is wanted.
        known: every command's option names ("max_line"), those of stages ("eval grade") too; only
            `command`'s need be complete.
        explicit: `--config`'s value; "-" is stdin; None reads the usual files.

    Raises:
        UsageError: a file is no TOML, or has a key that nothing knows.
    """
    found: Origins = {}
    for where in [explicit] if explicit else usual_files():
        table = _checked(_parse(where), where, command, known)
        found.update({key: (value, where) for key, value in table.items()})
    return found


def usual_files() -> list[str]:
    """Name the files that exist, the weakest first."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())
    return [
        str(path) for path in (home / "llama" / "config.toml", Path("llama.toml")) if path.is_file()
    ]


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Name the known word most like `name`.

    >>> nearest("max-lien", ["max-line", "jobs"])
    'max-line'
    """
    return next(iter(difflib.get_close_matches(name, list(names), 1)), None)


def _parse(where: str) -> dict[str, Any]:
    try:
        if where == "-":
            return tomllib.load(sys.stdin.buffer)
        with open(where, "rb") as file:
            return tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise UsageError(f"{'<stdin>' if where == '-' else where}: {why}") from None
    except OSError as error:
        raise UsageError(f"{where}: {error.strerror}") from None


def _checked(
    tables: Mapping[str, Any], where: str, command: str, known: Mapping[str, Iterable[str]]
) -> dict[str, Any]:
    for name, table in tables.items():
        if name not in known and not isinstance(table, dict):
            raise _unknown(where, f"key '{name}' outside the tables", f"[{command}], above it")
        if name not in known:
            raise _unknown(where, f"table {_header(name)}", _nearest_table(name, known))
        if not isinstance(table, dict):
            raise UsageError(f"{where}: '{name}' must be a table: {_header(name)}")
        for word, value in table.items():
            if isinstance(value, dict) and _key(word) not in map(_key, known[name]):
                near = _nearest_table(f"{name} {word}", known)  # "eval grade" has one of its own
                raise _unknown(where, f"table [{name}.{word}]", near)
    options = set(map(_key, known[command]))
    for key in tables.get(command, {}):
        if _key(key) not in options:
            raise _unknown(where, f"key '{key}' in {_header(command)}", nearest(key, options))
    return {key.replace("-", "_"): value for key, value in tables.get(command, {}).items()}


def _key(option: str) -> str:
    return option.replace("_", "-")


def _header(name: str) -> str:
    return f'["{name}"]' if " " in name else f"[{name}]"


def _nearest_table(name: str, known: Iterable[str]) -> str | None:
    """Name the table that is meant: of a stage as it is written, of a command by its word.

    >>> _nearest_table("eval rendr", ["eval", "eval render"]), _nearest_table("evl", ["eval"])
    ('["eval render"]', 'eval')
    """
    near = nearest(name, [each for each in known if (" " in each) == (" " in name)])
    return _header(near) if near and " " in near else near


def _unknown(where: str, what: str, instead: str | None) -> UsageError:
    return UsageError(f"{where}: unknown {what}", hint=instead)

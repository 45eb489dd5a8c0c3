"""What a terminal shows after a program wrote to it: enough of one for our escape sequences."""

from __future__ import annotations

import re

TOKEN = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])|\x1b\[\?25[hl]|(.)", re.DOTALL)


class Screen:
    """Rows of characters, and a cursor. Long lines wrap; rows that scroll off are kept."""

    def __init__(self, width: int = 80) -> None:
        self.width = width
        self.rows: list[str] = [""]
        self.row = self.column = 0

    def write(self, text: str) -> None:
        for match in TOKEN.finditer(text):
            if match[2]:
                self._escape(match[2], int(match[1] or 1) if match[1].isdigit() else 1)
            elif match[3]:
                self._put(match[3])

    @property
    def lines(self) -> list[str]:
        return [row.rstrip() for row in self.rows]

    def _escape(self, kind: str, count: int) -> None:
        if kind == "A":
            self.row = max(0, self.row - count)
        elif kind == "K":
            self.rows[self.row] = self.rows[self.row][: self.column]
        elif kind == "J":
            self.rows[self.row] = self.rows[self.row][: self.column]
            del self.rows[self.row + 1 :]
        else:
            assert kind == "m", f"a sequence that is not known: {kind}"

    def _put(self, each: str) -> None:
        if each == "\r":
            self.column = 0
        elif each == "\n":
            self._down()
        else:
            if self.column == self.width:
                self._down()
                self.column = 0
            row = self.rows[self.row].ljust(self.column)
            self.rows[self.row] = row[: self.column] + each + row[self.column + 1 :]
            self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append("")

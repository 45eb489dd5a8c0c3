r"""The value of a mathematical expression as LaTeX writes it, without running anything.

Answers of a model are text of a stranger: a parser of our own reads sums, products, powers,
\frac, \sqrt and \pi. A letter has a value of its own, far from any that matters, so that two
expressions in x are equal where their values are: (x+1)^2 and x^2+2x+1. Minerva compares with
sympy, which evaluates text as Python; this finds most of the same equalities.
"""

from __future__ import annotations

import cmath
import math
import re
from dataclasses import dataclass
from hashlib import blake2b

LONGEST = 100  # characters; ours
TOKEN = re.compile(r"\d+(?:\.\d*)?|\.\d+|\\[a-zA-Z]+|[a-zA-Z]|[-+*/^(){}\[\]]")
TIMES = ("*", "\\cdot", "\\times")
BEGINS = ("(", "{", "\\frac", "\\sqrt", "\\pi")


def value(text: str) -> complex | None:
    r"""Give the value of an expression, None if it is none.

    >>> value(r"\frac{1}{2}+2^{-1}"), value(r"2\sqrt{9}")
    ((1+0j), (6+0j))
    >>> value("1+"), value("even")
    (None, None)
    """
    tokens = TOKEN.findall(text)
    if not 0 < len(text) <= LONGEST or "".join(tokens) != text:
        return None
    if re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{3}", text):  # a word
        return None
    reader = _Reader(tokens)
    try:
        found = reader.total()
    except (ValueError, ArithmeticError):
        return None
    return found if reader.at == len(tokens) and cmath.isfinite(found) else None


@dataclass(slots=True)
class _Reader:
    """What is still to be read; each method reads what its name says, or raises ValueError."""

    tokens: list[str]
    at: int = 0

    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> bool:
        if self.next() not in wanted:
            return False
        self.at += 1
        return True

    def need(self, wanted: str) -> None:
        if not self.take(wanted):
            raise ValueError(f"no {wanted}")

    def total(self) -> complex:
        sign = -1 if self.take("-") else 1
        found = sign * self.product()
        while self.next() in ("+", "-"):
            sign = -1 if self.take("-") else 1
            self.take("+")
            found += sign * self.product()
        return found

    def product(self) -> complex:
        found = self.power()
        while True:
            if self.take("/"):
                found /= self.power()
            elif self.take(*TIMES) or self._begins():
                found *= self.power()
            else:
                return found

    def _begins(self) -> bool:
        token = self.next()
        return token in BEGINS or token[:1].isalnum() or token[:1] == "."

    def power(self) -> complex:
        base = self.atom()
        if not self.take("^"):
            return base
        exponent = self.atom()
        if abs(exponent) > LONGEST:
            raise ValueError("a large power")
        return complex(base) ** exponent

    def atom(self) -> complex:
        for begin, end in (("(", ")"), ("{", "}")):
            if self.take(begin):
                found = self.total()
                self.need(end)
                return found
        if self.take("\\frac"):
            return self.atom() / self.atom()
        if self.take("\\sqrt"):
            return self._root()
        if self.take("\\pi"):
            return math.pi
        token = self.next()
        self.at += 1
        if token[:1].isdigit() or token[:1] == ".":
            return float(token)
        if len(token) == 1 and token.isalpha():
            return _letter(token)
        raise ValueError(f"'{token}' begins no value")

    def _root(self) -> complex:
        degree: complex = 2
        if self.take("["):
            degree = self.total()
            self.need("]")
        return complex(self.atom()) ** (1 / degree)


def _letter(name: str) -> float:
    """Give a letter its value, between 1 and 2."""
    digest = blake2b(name.encode(), digest_size=6).digest()
    return 1 + int.from_bytes(digest, "big") / (1 << 48)

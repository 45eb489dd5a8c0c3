r"""Answers to problems of mathematics in one form, so that equal ones are equal texts.

LaTeX without what only changes its look (\dfrac, \left, \$, units, spaces), then by value where it
has one (expressions.py). In the manner of appendix D of Minerva (Lewkowycz et al., 2022). Ours.
"""

from __future__ import annotations

import re
from fractions import Fraction

from llama_cli.evaluation.expressions import LONGEST, value

NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?|-?\$?\.\d+")
SAID = re.compile(r"answer is:?\s*", re.IGNORECASE)
FINAL = re.compile(r"final answer is:?\s*", re.IGNORECASE)
WHOLE = re.compile(r"\d+")  # of any length, which a float has not
MATHS = re.compile(r"[\d\\+*/^-]")  # else a letter, a word or a name
BRACKETS = ("([", ")]")
WRITTEN = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)")
LOOKS = re.compile(
    r"\\(?:left|right|displaystyle|,|!|;|:|quad|big|Big)(?![a-zA-Z])|\\ |~|\\?\$|\\?%|"
    r"\^\{?\\circ\}?"
)
WORDS = re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf)\{([^{}]*)\}")
KINDS = re.compile(r"\\[dtc]frac")
UNIT = re.compile(r"(?<=[\d}])(?:cm|mm|km|ft|kg|mph|[a-z]{3,})(?:\^\{?[23]\}?)?$")  # 12 feet
SHORT = re.compile(r"\\frac\s*([0-9])\s*([0-9])")  # \frac12
ROOT = re.compile(r"\\sqrt\s*([0-9a-z])(?![0-9a-z])")
THOUSANDS = re.compile(r"(?<=\d),(?:\\!)?(?=\d{3}(?!\d))")


def last_number(text: str) -> str | None:
    """Give the number after the last "answer is", or the last number.

    >>> last_number("2 + 2 = 4. The answer is $1,234.50."), last_number("none")
    ('$1,234.50', None)
    """
    said = list(SAID.finditer(text))
    if said and (found := NUMBER.match(text, said[-1].end())):
        return found.group()
    numbers = NUMBER.findall(text)
    return numbers[-1] if numbers else None


def number(answer: str) -> str:
    """Write a number in one form.

    >>> number("$1,234.50"), number("18"), number("18.00")
    ('2469/2', '18', '18')
    """
    bare = answer.replace(",", "").replace("$", "").strip()
    return str(Fraction(bare)) if len(bare) < LONGEST and WRITTEN.fullmatch(bare) else bare


def boxed(text: str) -> str | None:
    r"""Give what the last \boxed{} of a solution holds.

    >>> boxed(r"so $\boxed{\frac{1}{2}}$.")
    '\\frac{1}{2}'
    """
    at = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if at < 0:
        return None
    rest = text[at:].partition("box")[2].removeprefix("ed")
    if not rest.startswith("{"):
        return rest.split("$")[0].split()[0] if rest.split("$")[0].split() else None
    depth = 0
    for end, letter in enumerate(rest):
        depth += (letter == "{") - (letter == "}")
        if not depth:
            return rest[1:end]
    return None


def final_answer(text: str) -> str | None:
    """Give what follows the last "final answer is", else the last boxed expression.

    >>> final_answer("So 7. Final Answer: The final answer is $7$. I hope it is correct.")
    '$7$'
    """
    found = list(FINAL.finditer(text))
    if not found:
        return boxed(text)
    said = text[found[-1].end() :].split("\n")[0].split(". I hope")[0].strip()
    return said.removesuffix(".").strip() or None


def latex(answer: str) -> str:
    r"""Write an answer in one form.

    >>> latex(r"$\dfrac12$") == latex(r"\frac{1}{2}") == latex("0.5")
    True
    >>> latex("x = 1,000"), latex(r"\text{(A)}")
    ('1000', '(A)')
    """
    text = (boxed(answer) or answer).strip().removesuffix(".")
    text = KINDS.sub(r"\\frac", text)
    text = WORDS.sub(r"\1", LOOKS.sub("", THOUSANDS.sub("", text)))
    text = ROOT.sub(r"\\sqrt{\1}", SHORT.sub(r"\\frac{\1}{\2}", text))
    text = UNIT.sub("", re.sub(r"\s+", "", text))
    if re.match(r"^[a-zA-Z]=[^=]+$", text):
        text = text[2:]
    return _valued(text)


def _valued(text: str) -> str:
    """Write numbers and expressions by their value, each of those between commas."""
    if "\\cup" in text:
        return "\\cup".join(map(_valued, text.split("\\cup")))
    inner = text[1:-1] if text[:1] in BRACKETS[0] and text[-1:] in BRACKETS[1] else ""
    if "," in inner:
        return text[0] + ",".join(map(_valued, _parts(inner))) + text[-1]
    if "," in text:
        parts = _parts(text)
        return ",".join(map(_valued, parts)) if len(parts) > 1 else text
    if WHOLE.fullmatch(text):
        return text.lstrip("0") or "0"
    found = value(text) if MATHS.search(text) else None
    return text if found is None else _written(found)


def _parts(text: str) -> list[str]:
    """Part at commas that are in no brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _written(found: complex) -> str:
    real, other = (0.0 if abs(part) < 1e-12 else part for part in (found.real, found.imag))
    return f"{real:.12g}" if not other else f"{real:.12g}{other:+.12g}i"

"""Complete with a short answer, and compare it with the right ones.

LLaMA, section 3.2: "we use greedy decoding for the generation, and extract an answer from the
generation by stopping at the first line break, final dot or comma. Generated answers are
evaluated with the standard exact match metric: a generated answer is considered correct if it
matches any answer of the list of answers after normalization. For this normalization step we
lowercase generated answers and remove articles, punctuation and duplicate whitespaces."
(appendix A).
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from llama_cli.evaluation.request import Request, Response
from llama_cli.evaluation.task import Mark, Row, Tools, each

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Take the first line of a greedy completion; right if it equals any gold answer."""

    golds: Callable[[Row], Sequence[str]]
    max_tokens: int = 24  # ours: the paper gives none, Llama 3.1 used as many
    stop: Sequence[str] = ("\n",)
    normalize: str = "exact match"
    metric: str = "exact_match"
    needs: Sequence[str] = ()

    def ask(self, row: Row, prompt: str) -> Request:
        """Ask for one line."""
        golds = list(self.golds(row))
        if not golds or not all(isinstance(gold, str) for gold in golds):
            raise ValueError("no answer that is text")
        return Request(
            "", "", "complete", golds, prompt=prompt, stop=self.stop, max_tokens=self.max_tokens
        )

    def grade(self, responses: Iterable[Response], tools: Tools) -> Iterator[Mark]:
        """Mark each response."""
        return each(self.mark, responses)

    def mark(self, response: Response) -> Mark:
        """Compare."""
        answer = extract(response.completions[0])
        right = bool(answer) and plain(answer) in map(plain, response.request.gold)
        return Mark({self.metric: float(right)}, answer)


def extract(completion: str) -> str:
    r"""Keep the first line, without the dot or comma that ends it; others belong to the answer.

    >>> extract(" J. R. R. Tolkien.\nQ: who"), extract(" 3,610, ")
    ('J. R. R. Tolkien', '3,610')
    """
    line = completion.partition("\n")[0].strip()
    return line[:-1].rstrip() if line.endswith((".", ",")) else line


def plain(answer: str) -> str:
    """Drop what does not count: case, punctuation, articles, and more than one space.

    >>> plain("  The  Lord of the Rings!")
    'lord of rings'
    """
    words = ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION))
    return " ".join(words.split())

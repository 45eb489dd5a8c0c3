"""Complete with a worked solution, of which the last answer counts; or take the most frequent.

Lewkowycz et al., 2022 (Minerva), https://arxiv.org/abs/2206.14858, section 2.2: maj1@k draws k
solutions by nucleus sampling at temperature 0.6, top-p 0.95, and takes the answer that most
agree on. LLaMA, section 3.4 and Table 7: "k = 256 samples for MATH and k = 100 for GSM8k".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from llama_cli.evaluation.request import Request, Response
from llama_cli.evaluation.task import Mark, Row, Tools, each


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """Compare the final answer, in one of its forms, with the right one.

    `final` finds the answer in a solution, None if there is none; `same` writes answers that are
    equal in one form.
    """

    gold: Callable[[Row], str]
    final: Callable[[str], str | None]
    same: Callable[[str], str]
    stop: Sequence[str]
    max_tokens: int
    normalize: str
    votes: int = 1  # 1 is greedy
    needs: Sequence[str] = ()

    def ask(self, row: Row, prompt: str) -> Request:
        """Ask for a solution, or as many as vote."""
        voting = self.votes > 1
        return Request(
            "",
            "",
            "complete",
            self.gold(row),
            prompt=prompt,
            stop=self.stop,
            max_tokens=self.max_tokens,
            temperature=0.6 if voting else 0.0,
            top_p=0.95 if voting else 1.0,
            samples=self.votes,
        )

    def grade(self, responses: Iterable[Response], tools: Tools) -> Iterator[Mark]:
        """Mark each response."""
        return each(self.mark, responses)

    def mark(self, response: Response) -> Mark:
        """Count votes; solutions without an answer have none, and the first of equals wins."""
        gold = self.same(response.request.gold)
        answers = [self.final(text) for text in response.completions]
        forms = [(self.same(each), each) for each in answers if each is not None]
        votes = Counter(form for form, _ in forms)
        picked = votes.most_common(1)[0][0] if votes else None
        answer = next((each for form, each in forms if form == picked), None)
        right = float(picked == gold)
        if self.votes == 1:
            return Mark({"accuracy": right}, answer)
        share = votes[gold] / len(answers)
        return Mark({f"maj1@{len(answers)}": right, "one_sample": share}, answer)

"""What a mixture says about itself: a table, and a warning where data repeats too often."""

from __future__ import annotations

from collections.abc import Sequence

from llama_cli.mixture.pack import Share
from llama_cli.mixture.weights import Weights

# "up to 4 epochs of repeated data yields negligible changes to loss compared to having
# unique data": Muennighoff et al. 2023, https://arxiv.org/abs/2305.16264, abstract.
MOST_EPOCHS = 4


def differences(weights: Weights) -> list[str]:
    """Tell how the sources differ from those asked for.

    >>> differences(Weights({"books": 1.0}, lacking=["c4", "arxiv"], left_out=["files"]))
    ['no c4, arxiv in the input; the rest is renormalised', 'leaves out files, which has no weight']
    """
    lines = []
    if weights.lacking:
        lines.append(f"no {', '.join(weights.lacking)} in the input; the rest is renormalised")
    if weights.left_out:
        lines.append(f"leaves out {', '.join(weights.left_out)}, which has no weight")
    if weights.by_size:
        names = ", ".join(weights.by_size)
        lines.append(f"weighs {names} by its share of the tokens, since Table 1 has no such source")
    return lines


def table(shares: Sequence[Share]) -> list[str]:
    """Lay out proportions, epochs and tokens, a line a source.

    >>> print(*table([Share("books", 1.0, 4_000, 6_144)]), sep="\\n")
    source          weight    tokens in    tokens out   epochs
    books          100.00%        4,000         6,144     1.54
    """
    return [
        f"{'source':14} {'weight':>7} {'tokens in':>12}  {'tokens out':>12} {'epochs':>8}",
        *(
            f"{share.source:14} {share.weight:7.2%} {share.tokens:12,}  {share.drawn:12,}"
            f" {share.epochs:8.2f}"
            for share in shares
        ),
    ]


def repeated(shares: Sequence[Share]) -> list[str]:
    """Warn of sources that are seen more often than helps."""
    often = [
        f"{share.source} {share.epochs:.1f} times" for share in shares if share.epochs > MOST_EPOCHS
    ]
    if not often:
        return []
    return [
        f"repeats {', '.join(often)}; past {MOST_EPOCHS} epochs the same text teaches less"
        " (Muennighoff et al. 2023)"
    ]

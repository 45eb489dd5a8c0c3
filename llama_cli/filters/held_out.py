"""Set documents aside for evaluation, by their ids, so that none of them is trained on.

An id is on the same side in every run, whatever else is in the input. Copies are removed
before, so that what is set aside does not stand in the output under another id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from xxhash import xxh3_64_intdigest

from llama_cli.records import Document, Rejected

SEED = 3  # ours: unlike those of the keys of duplicates


def hold_out(
    items: Iterable[Document | Rejected], share: float, keep: Callable[[Document], None]
) -> Iterator[Document | Rejected]:
    """Hand a share of the documents to `keep`, and pass the others on."""
    for item in items:
        if isinstance(item, Document) and is_held_out(item.id, share):
            keep(item)
        else:
            yield item


def is_held_out(name: str, share: float) -> bool:
    """Tell whether the document of this id is set aside.

    >>> is_held_out("a", 0.0), is_held_out("a", 1.0)
    (False, True)
    """
    return xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"), seed=SEED) < share * 2**64

"""Cut the shuffled documents of each source into sequences, and interleave the sources.

Per source, the documents are laid end to end, epoch after epoch, each epoch in an order of
its own, and cut every `length` tokens. A sequence has length + 1 tokens: its last is the
first of the next, so every token is predicted once. Then the sequences of each pass are
shuffled too: a long document fills many, and a batch of those would teach one thing.

Sequences are the unit that the weights count, as in LLaMA's batches of 2,048-token
sequences (section 2.2, Table 2).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from llama_cli.errors import LlamaError
from llama_cli.mixture.corpus import Corpus
from llama_cli.mixture.sample import Array, counts, permutation, permuted, window

BLOCK = 1 << 16  # sequences whose order is computed at a time; ours: 4 MB of indices


@dataclass(frozen=True, slots=True)
class Share:
    """What one source gives to a mixture."""

    source: str
    weight: float
    tokens: int  # in the input
    drawn: int  # tokens in the mixture

    @property
    def epochs(self) -> float:
        """How often each token is seen."""
        return self.drawn / self.tokens


def sequences_in(available: int, *, tokens: int | None, length: int) -> int:
    """Count the sequences that hold so many tokens to predict; by default, all that there are.

    >>> sequences_in(4097, tokens=None, length=2048)
    2

    Raises:
        LlamaError: not even one.
    """
    # the first token of all is given, not predicted
    wanted = available - 1 if tokens is None else tokens
    if wanted < length:
        raise LlamaError(
            f"{wanted + 1:,} tokens are too few for one sequence of {length + 1:,}",
            hint=f"llama mix --length {wanted}" if wanted else "more text, or less filtering",
        )
    return wanted // length


class Source:
    """The endless stream of one source: its documents, shuffled anew in each epoch."""

    def __init__(self, corpus: Corpus, name: str, seed: int) -> None:
        self._corpus, self._name, self._seed = corpus, name, seed
        self._tokens = corpus.tokens[name]
        self._epochs: OrderedDict[int, tuple[Array, Array]] = OrderedDict()

    def order(self, items: Array, length: int) -> Array:
        """Tell which sequence of the stream each item is: shuffled within every pass."""
        count = max(1, self._tokens // length)  # sequences a pass
        shuffled = np.empty_like(items)
        for number in np.unique(items // count).tolist():
            inside = items // count == number
            key = f"{self._seed} {self._name} {number} sequences"
            shuffled[inside] = number * count + permuted(items[inside] % count, count, key)
        return shuffled

    def read(self, start: int, count: int) -> Array:
        """Give `count` tokens from place `start` on."""
        parts = []
        while count:
            epoch, offset = divmod(start, self._tokens)
            for tokens in self._epoch_from(epoch, offset):
                taken = tokens[:count]
                parts.append(taken)
                start += len(taken)
                count -= len(taken)
                if not count:
                    break
        return np.concatenate(parts)

    def _epoch_from(self, epoch: int, offset: int) -> Iterator[Array]:
        """Yield the documents of an epoch from a token offset on."""
        documents, ends = self._epoch(epoch)
        row = int(np.searchsorted(ends, offset, "right"))
        tokens = self._corpus[documents[row]]
        yield tokens[offset - int(ends[row]) + len(tokens) :]
        for document in documents[row + 1 :]:
            yield self._corpus[document]

    def _epoch(self, epoch: int) -> tuple[Array, Array]:
        """Give the order of the documents in an epoch, and the token at which each ends."""
        if epoch not in self._epochs:
            rows = self._corpus.documents[self._name]
            order = rows[permutation(len(rows), f"{self._seed} {self._name} {epoch}")]
            ends = np.cumsum(self._corpus.lengths[order], dtype=np.int64)
            self._epochs[epoch] = order, ends
            if len(self._epochs) > 2:  # a sequence may lie over the end of an epoch
                self._epochs.popitem(last=False)
        return self._epochs[epoch]


class Mixture:
    """Sequences of several sources, interleaved by weight; any stretch can be had alone."""

    def __init__(
        self, corpus: Corpus, weights: Mapping[str, float], *, length: int, seed: int
    ) -> None:
        """Set the recipe.

        Args:
            corpus: the documents.
            weights: sums to 1, for sources that the corpus has.
            length: tokens to predict in a sequence, which holds one more.
            seed: of the order of documents.
        """
        self.length = length
        self.recipe = {"seed": seed, "length": length, "weights": dict(weights)}
        self._corpus = corpus
        self._names, self._weights = list(weights), list(weights.values())
        self._sources = [Source(corpus, name, seed) for name in self._names]

    def sequences(self, start: int, stop: int) -> Iterator[tuple[Array, str]]:
        """Yield the tokens and the source of the sequences `start` to `stop`."""
        for block in range(start, stop, BLOCK):
            numbers, items = window(self._weights, block, min(stop, block + BLOCK))
            for number, source in enumerate(self._sources):
                items[numbers == number] = source.order(items[numbers == number], self.length)
            for number, item in zip(numbers.tolist(), items.tolist(), strict=True):
                tokens = self._sources[number].read(item * self.length, self.length + 1)
                yield tokens, self._names[number]

    def shares(self, stop: int) -> list[Share]:
        """Tell what each source gives to the first `stop` sequences."""
        drawn = counts(self._weights, stop)
        return [
            Share(name, weight, self._corpus.tokens[name], count * self.length)
            for name, weight, count in zip(self._names, self._weights, drawn, strict=True)
        ]

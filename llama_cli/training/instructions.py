"""Conversations to learn from: only what the assistant says counts (LLaMA-I, section 4).

Several are packed into a sequence and kept apart, so that no position is wasted and none sees
another conversation. They are encoded and packed once, into RUN/data:

    tokens-*.bin ...   a directory of shards of equally long sequences
    learnt.bin         a byte a token: 1 if it counts
    about.json         how many conversations, and the template

The sequences are shuffled anew in each epoch. Legend: B sequences, L positions.
"""

from __future__ import annotations

import json
import shutil
from array import array
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llama_cli.errors import LlamaError, TooManyRejects
from llama_cli.mixture.sample import permutation, permuted
from llama_cli.records import Conversation
from llama_cli.shards.formats import MANIFEST
from llama_cli.shards.write import ShardWriter
from llama_cli.stream.reader import read_lines, shown
from llama_cli.stream.sync import sync
from llama_cli.tokenizer.bpe import Tokenizer
from llama_cli.tokenizer.template import Template
from llama_cli.training.batch import Batch
from llama_cli.training.data import Sequences, bounds_of, known, numbers_of
from llama_cli.training.keep import other_data

LEARNT, ABOUT = "learnt.bin", "about.json"

Bytes = NDArray[np.uint8]


@dataclass(slots=True)
class Encoded:
    """Conversations as tokens, end to end. Memory: 5 bytes a token."""

    tokens: array[int] = field(default_factory=lambda: array("I"))
    learnt: bytearray = field(default_factory=bytearray)  # a byte a token
    lengths: list[int] = field(default_factory=list)
    cut: int = 0  # conversations that are shorter than they were

    def add(self, tokens: Sequence[int], learnt: bytes) -> None:
        """Take one more."""
        self.tokens.extend(tokens)
        self.learnt += learnt
        self.lengths.append(len(tokens))


def encode(where: str, tokenizer: Tokenizer, *, length: int, template: Template) -> Encoded:
    """Read conversations; one that is longer than `length` + 1 tokens loses its end.

    Raises:
        TooManyRejects: a line is none, or leaves no room for an answer.
        LlamaError: there is no line.
    """
    found = Encoded()
    for _, number, line in read_lines([where]):
        try:
            tokens, learnt = template.encode(Conversation.from_json(line), tokenizer)
            room = length + 1
            if not any(learnt[:room]):
                raise ValueError(
                    f"the prompt has {learnt.index(1):,} tokens, which leaves no room "
                    f"for a response in {length:,}"
                )
        except ValueError as error:
            raise TooManyRejects(f"{shown(where)}:{number}: {error}") from None
        found.cut += len(tokens) > room
        found.add(tokens[:room], learnt[:room])
    if not found.lengths:
        raise LlamaError(f"{shown(where)} holds no conversation", hint=EXAMPLE)
    return found


EXAMPLE = """echo '{"prompt": "1 + 1?", "response": "2"}' > FILE"""


def pack(lengths: Iterable[int], width: int) -> list[list[int]]:
    """Put items into bins of `width`, each where it leaves the least room, in their order.

    Best fit (Johnson et al., 1974): at most 1.7 times as many bins as there must be.

    >>> pack([6, 5, 4, 3, 2], 10)
    [[0, 2], [1, 3, 4]]
    """
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room, bin), ascending
    for item, length in enumerate(lengths):
        at = bisect_left(rooms, (length, -1))
        room, into = rooms.pop(at) if at < len(rooms) else (width, len(bins))
        if into == len(bins):
            bins.append([])
        bins[into].append(item)
        if room > length:
            insort(rooms, (room - length, into))
    return bins


def packed(found: Encoded, *, length: int, seed: int) -> Iterator[tuple[NDArray[np.int64], Bytes]]:
    """Yield sequences of `length` + 1 tokens, filled up with end marks, and what counts in each."""
    tokens, learnt = np.frombuffer(found.tokens, np.uint32), np.frombuffer(found.learnt, np.uint8)
    ends = np.cumsum(found.lengths)
    order = permutation(len(ends), f"{seed} conversations")
    for row in pack((found.lengths[n] for n in order), length + 1):
        where = np.concatenate([np.arange(ends[n] - found.lengths[n], ends[n]) for n in order[row]])
        sequence = np.full(length + 1, Tokenizer.eos, np.int64)
        counts = np.zeros(length + 1, np.uint8)
        sequence[: len(where)], counts[: len(where)] = tokens[where], learnt[where]
        yield sequence, counts


def keep_instructions(
    where: str,
    directory: Path,
    tokenizer: Tokenizer,
    *,
    length: int,
    seed: int,
    say: Callable[[str], None] = lambda _: None,
    template: Template = Template(),  # noqa: B008 (frozen)
) -> None:
    """Encode and pack conversations into `directory`, or check that these are in it.

    Raises:
        TooManyRejects: a line is no conversation, or leaves no room for an answer.
        LlamaError: there is no line, or the directory holds other data.
    """
    found = encode(where, tokenizer, length=length, template=template)
    if found.cut:
        say(f"{found.cut:,} of {len(found.lengths):,} conversations are cut to {length:,} tokens")
    fresh = directory.with_name(f".{directory.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        _write(fresh, found, tokenizer, length=length, seed=seed, template=template)
        if not directory.exists():
            fresh.rename(directory)
            sync(directory.parent)
        elif _fingerprint(directory) != _fingerprint(fresh):
            raise other_data(directory.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write(
    directory: Path,
    found: Encoded,
    tokenizer: Tokenizer,
    *,
    length: int,
    seed: int,
    template: Template,
) -> None:
    shards = ShardWriter(
        directory,
        kind="sequences",
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.sha256,
    )
    all_learnt = bytearray()
    with shards:
        for sequence, learnt in packed(found, length=length, seed=seed):
            shards.add(sequence, "instructions")
            all_learnt += learnt.tobytes()
    about = {
        "conversations": len(found.lengths),
        "cut": found.cut,
        "learnt": sum(all_learnt),
        "learnt_sha256": sha256(all_learnt).hexdigest(),
        "template": asdict(template),
    }
    (directory / LEARNT).write_bytes(all_learnt)
    (directory / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    for name in (LEARNT, ABOUT):
        sync(directory / name)
    sync(directory)


def _fingerprint(directory: Path) -> str | None:
    """Tell by the checksums of all files; None if they are not all there."""
    try:
        held = (directory / MANIFEST).read_bytes() + (directory / ABOUT).read_bytes()
    except FileNotFoundError:
        return None
    return sha256(held).hexdigest()


class Instructions:
    """The packed conversations of a directory, in another order in each epoch.

    Raises:
        LlamaError: they are not there.
    """

    ended = True

    def __init__(self, directory: Path, *, seed: int) -> None:
        self.directory, self.seed = directory, seed
        fingerprint = _fingerprint(directory)
        if fingerprint is None:
            raise other_data(directory.parent)
        self.fingerprint = fingerprint
        self.sequences = Sequences(directory)
        self.length = self.sequences.length
        self.vocab_size = self.sequences.vocab_size
        self.tokenizer_sha256 = self.sequences.tokenizer_sha256
        about = json.loads((directory / ABOUT).read_text(encoding="utf-8"))
        self.conversations: int = about["conversations"]
        self.template = Template(**about["template"])
        self._learnt = _mapped(directory / LEARNT, len(self), self.length + 1)

    def __len__(self) -> int:
        return len(self.sequences)

    def whole(self) -> int:
        """Count the sequences."""
        return len(self)

    def batch(self, step: int, size: int, rows: range | None = None) -> Batch:
        """Give these rows, or all, of the sequences of step `step`, counted from 1."""
        return self.rows(list(map(self._place, numbers_of(step, size, rows))))

    def rows(self, places: Sequence[int]) -> Batch:
        """Give the sequences of these places on disk."""
        shards = self.sequences.shards
        tokens = known(
            [shards[at] for at in places], self.vocab_size, str(self.directory), places[0]
        )
        learnt = torch.from_numpy(np.stack([self._learnt[at] for at in places]))
        return batch_of(tokens, learnt)

    def _place(self, number: int) -> int:
        """Say where the sequence is that comes as this number, all epochs counted."""
        epoch, place = divmod(number, len(self))
        key = f"{self.seed} instructions {epoch}"
        return int(permuted(np.array([place]), len(self), key)[0])


def _mapped(path: Path, count: int, width: int) -> Bytes:
    if not path.is_file() or path.stat().st_size != count * width:
        raise LlamaError(f"{path}: not a byte a token", hint="llama train --run ANOTHER")
    return np.asarray(np.memmap(path, np.uint8, "r", shape=(count, width)))


def batch_of(tokens: Tensor, learnt: Tensor) -> Batch:
    """Let count what is learnt, and keep conversations apart; both are (B, L + 1)."""
    bounds = bounds_of(tokens[:, :-1] == Tokenizer.bos)
    return Batch(tokens, learnt[:, 1:].bool(), bounds)


def held_out(
    where: str, tokenizer: Tokenizer, *, length: int, count: int, template: Template
) -> Batch:
    """Pack conversations that are not learnt from, for validation: at most `count` sequences.

    Raises:
        TooManyRejects: a line is no conversation, or leaves no room for an answer.
        LlamaError: there is no line.
    """
    found = encode(where, tokenizer, length=length, template=template)
    rows = list(islice(packed(found, length=length, seed=0), count))
    tokens, learnt = (torch.from_numpy(np.stack(each)) for each in zip(*rows, strict=True))
    return batch_of(tokens, learnt)

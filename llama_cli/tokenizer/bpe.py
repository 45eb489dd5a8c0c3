"""Text to token ids and back: SentencePiece BPE, as in LLaMA, section 2.1.

Numbers are split into single digits, and characters outside the vocabulary fall back to
their UTF-8 bytes, so every text has ids and comes back from them. The one exception is
U+2581, which SentencePiece uses for a space, and which comes back as a space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import sentencepiece

from llama_cli.errors import LlamaError, NotReadyError

EMBEDDED = Path(__file__).with_name("default.model")
BEFORE = "a"  # stands before what is decoded as the middle of a text; any letter would do


class Tokenizer:
    """A SentencePiece model; `Tokenizer.load()` is the one that comes with llama.

    >>> tokenizer = Tokenizer.load()
    >>> tokenizer.decode(tokenizer.encode("In 1969, 한국!"))
    'In 1969, 한국!'
    """

    bos, eos = 1, 2  # as in the released models

    def __init__(self, model: bytes, where: str = "<bytes>") -> None:
        """Read the bytes of a `.model` file, and keep them as `model`.

        Raises:
            LlamaError: they are no SentencePiece model, or one with other marks.
        """
        self.model = model
        self.processor = sentencepiece.SentencePieceProcessor()
        try:
            self.processor.LoadFromSerializedProto(model)
        except RuntimeError:
            raise LlamaError(f"{where}: not a sentencepiece model") from None
        if (self.processor.bos_id(), self.processor.eos_id()) != (self.bos, self.eos):
            raise LlamaError(f"{where}: its begin and end marks are not 1 and 2, as LLaMA's are")

    @classmethod
    def load(cls, path: str | Path | None = None) -> Tokenizer:
        """Load a `.model` file, or the embedded one.

        Raises:
            NotReadyError: there is no such file.
            LlamaError: it is not a tokenizer.
        """
        path = Path(path or EMBEDDED)
        if not path.is_file():
            raise NotReadyError(
                f"no tokenizer at {path}", hint=f"llama tokenize --fit corpus.jsonl -o {path}"
            )
        return cls(path.read_bytes(), str(path))

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[bytes]]:
        return type(self), (self.model,)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return int(self.processor.vocab_size())

    @cached_property
    def longest_piece(self) -> int:
        """Bytes of text of the longest piece: no token stands for more."""
        return max(len(self.piece(token).encode()) for token in range(self.vocab_size))

    @cached_property
    def sha256(self) -> str:
        """Checksum of the `.model` file: which tokenizer this is."""
        return hashlib.sha256(self.model).hexdigest()

    def encode(self, text: str, *, bos: bool = True, eos: bool = False) -> list[int]:
        """Give the ids of `text`, after the begin mark, before the end mark if asked."""
        ids: list[int] = self.processor.EncodeAsIds(_whole(text))
        return [self.bos] * bos + ids + [self.eos] * eos

    def decode(self, ids: Sequence[int]) -> str:
        """Give the text of `ids`; marks vanish, broken UTF-8 becomes U+FFFD.

        Raises:
            ValueError: an id is outside the vocabulary.
        """
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise ValueError(f"an id is outside the {self.vocab_size} of this tokenizer")
        text: str = self.processor.DecodeIds(list(ids))
        return text

    def decode_from(self, ids: Sequence[int], start: int) -> str:
        """Give the text of `ids[start:]` as it stands after the others, in time of its length.

        >>> tokenizer = Tokenizer.load()
        >>> ids = tokenizer.encode("to be or")
        >>> tokenizer.decode_from(ids, len(ids) - 1), tokenizer.decode(ids[-1:])
        (' or', 'or')
        """
        begun = any(not self.processor.IsControl(token) for token in islice(ids, start))
        before = self._before if begun else []  # at the beginning of a text a space is dropped
        return self.decode([*before, *ids[start:]])[len(BEFORE) * begun :]

    @cached_property
    def _before(self) -> list[int]:
        return self.encode(BEFORE, bos=False)

    def piece(self, token: int) -> str:
        """Give a token as it stands within a text; one of a single byte is named, as <0x0A>."""
        piece: str = self.processor.IdToPiece(token)
        return piece.replace("\u2581", " ")


def _whole(text: str) -> str:
    """Join halves of surrogate pairs, and replace lone ones, which no UTF-8 can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text

"""Documents to token ids: the begin mark, the text, the end mark.

The paper does not say how documents are told apart. The released models expect a begin
mark before text (facebookresearch/llama, generation.py), so training has both.
"""

from __future__ import annotations

from dataclasses import dataclass

from llama_cli.records import Document, Tokens
from llama_cli.tokenizer.bpe import Tokenizer


@dataclass(frozen=True, slots=True)
class Encode:
    """Encode documents, and tell how many bytes of text each had."""

    tokenizer: Tokenizer

    def __call__(self, document: Document) -> tuple[Tokens, int]:
        """Encode one document."""
        ids = self.tokenizer.encode(document.text, eos=True)
        size = len(document.text.encode("utf-8", "surrogatepass"))
        return Tokens(document.id, document.source, ids), size

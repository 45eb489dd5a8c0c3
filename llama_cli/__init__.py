"""llama: make a language model yourself, from raw crawl to evaluated checkpoint.

The whole system of "LLaMA: Open and Efficient Foundation Language Models" (Touvron
et al., 2023, https://arxiv.org/abs/2302.13971) as eight Unix-style commands. This file
holds the version and imports nothing, so that `llama --help` is quick.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"

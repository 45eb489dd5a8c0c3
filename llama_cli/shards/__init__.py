"""Tokens on disk: tokenize writes them, mix and train read them."""

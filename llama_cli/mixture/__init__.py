"""Sources interleaved by weight and packed into sequences (LLaMA, Table 1)."""

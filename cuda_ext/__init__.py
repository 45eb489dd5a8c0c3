"""The causal attention of LLaMA, section 2.4, as a CUDA library behind a plain C interface.

`attention.cu` is the whole source: nvcc makes LIBRARY of it when `llama` is installed, and
g++ runs the same source on a CPU in the tests. README.md draws how it works;
`llama_cli.kernels.extension` calls it.
"""

from pathlib import Path

SOURCE = Path(__file__).with_name("attention.cu")
LIBRARY = Path(__file__).with_name("libllama_attention.so")  # there once nvcc has built it

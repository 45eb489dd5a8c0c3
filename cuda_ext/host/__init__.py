"""A LLaMA on a CPU, as a library behind a plain C interface: decoding as quick as memory.

The headers here, compiled once for each kind of processor (variant.cpp) and put behind one door
(dispatch.cpp), are LIBRARY, made by the machine's C++ compiler when `llama` is installed.
`llama_cli.kernels.host` calls it.
"""

from pathlib import Path

LIBRARY = Path(__file__).with_name("libllama_host.so")  # there once it has been built

"""Where the process starts: `llama`, and `python -m llama_cli` when another tool owns that name.

Until cli.py is loaded and handles Ctrl-C, it ends the process at once and in silence.
"""

from __future__ import annotations

import signal

# whoever started us may have Ctrl-C ignored, as `nohup` and `&` in a script do: it stays so
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from llama_cli.cli import main

if __name__ == "__main__":
    main()

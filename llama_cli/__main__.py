"""`python -m llama_cli`: the same as `llama`, for when another tool owns that name."""

from llama_cli.cli import main

if __name__ == "__main__":
    main()

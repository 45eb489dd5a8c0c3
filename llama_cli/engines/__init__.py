"""Where work runs: this process or N of them. The output never depends on the choice."""

"""What every test needs before torch is loaded."""

import os
import signal
import threading

import pytest

# two cores that others use too: a thread that waits must not spin on one of them
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# a shell lets Ctrl-C be ignored by what it starts in the background, and by all that starts in turn
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

collect_ignore_glob = ["bench/*_peer.py"]  # run by another Python, with packages of its own

# tests that wait for clocks, terminals, signals or several processes: no others beside them
ALONE = {
    "test_eval_answer",
    "test_eval_endpoints",
    "test_formats_memory",
    "test_rules_endings",
    "test_rules_terminals",
    "test_serve",
    "test_train_launch",
    "test_train_seeing",
    "test_train_stream",
    "test_training_chaos",
    "test_training_launch",
    "test_training_run",
    "test_training_watch",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them by file."""
    for item in items:
        if item.path.stem in ALONE:
            item.add_marker(pytest.mark.alone)

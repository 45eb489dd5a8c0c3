"""What every test needs before torch is loaded."""

import os

# two cores that others use too: a thread that waits must not spin on one of them
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

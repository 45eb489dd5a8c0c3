"""Stand-ins for nvcc, and a copy of the checkout to install: what tests of building share."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.shell import ROOT

# builds in two steps with a pause between, and leaves its digest, as nvcc does, then padding
FAKE = f"""#!{sys.executable} -SE
import sys, time
if "--version" in sys.argv:
    sys.exit(print("Cuda compilation tools, release 12.4, V12.4.131"))
[digest] = [x[len("--build-id=0x"):] for x in sys.argv if x.startswith("--build-id=0x")]
with open(sys.argv[sys.argv.index("-o") + 1], "wb", buffering=0) as made:
    made.write(bytes.fromhex(digest))
    time.sleep(0.1)
    made.write(bytes(2_000_000))
"""
BUILT = "built libllama_attention.so for sm_80, sm_90 and PTX with {} 12.4 in 0 s, 2.0 MB"
KEPT = "kept libllama_attention.so, built from these sources"

VERSION = '[ "$1" != --version ] || exec echo "Cuda compilation tools, release 12.4, V12.4.131"'
BROKEN = f'#!/bin/sh\n{VERSION}\necho "attention.cu(1): error: no such GPU" >&2\nexit 2\n'
OLD = '#!/bin/sh\necho "Cuda compilation tools, release 11.8, V11.8.89"\n'
TALKATIVE = f"""#!/bin/sh
{VERSION}
echo "nvcc warning : support for this GPU will go"
echo "In file included from cuda_runtime.h:82,"
echo "host_config.h:143:2: error: #error -- unsupported GNU version!"
echo "  143 | #error -- unsupported GNU version!"
exit 1
"""
SILENT = f"#!/bin/sh\n{VERSION}\nexit 3\n"
MUTE = "#!/bin/sh\n"
NO_PROGRAM = "this is text"


def stand_in(home: Path, nvcc: str) -> Path:
    """Write an nvcc under `home`, to be CUDA_HOME, and return it."""
    path = home / "bin" / "nvcc"
    path.parent.mkdir(exist_ok=True)
    path.write_text(nvcc)
    path.chmod(0o755)
    return path


def copy_checkout(folder: Path) -> Path:
    """Copy what an install reads, without a library."""
    nothing_built = shutil.ignore_patterns("*.so", "*.part", "__pycache__")
    for name in ("cuda_ext", "llama_cli"):
        shutil.copytree(ROOT / name, folder / name, ignore=nothing_built)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder

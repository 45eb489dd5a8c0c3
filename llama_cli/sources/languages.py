"""Which files are source code or its documentation, and in what language, by suffix.

The paper does not list the suffixes it takes; this list is ours.
"""

from __future__ import annotations

SUFFIXES = {
    "Ada": "adb ads",
    "AsciiDoc": "adoc asciidoc",
    "Assembly": "asm s",
    "Batchfile": "bat cmd",
    "C": "c h",
    "C#": "cs",
    "C++": "cc cpp cxx hh hpp hxx inl ipp",
    "CMake": "cmake",
    "CSS": "css less sass scss",
    "CUDA": "cu cuh",
    "Clojure": "clj cljc cljs",
    "Common Lisp": "lisp lsp",
    "Cython": "pxd pxi pyx",
    "D": "d",
    "Dart": "dart",
    "Elixir": "ex exs",
    "Elm": "elm",
    "Emacs Lisp": "el",
    "Erlang": "erl hrl",
    "F#": "fs fsi fsx",
    "Fortran": "f f03 f08 f90 f95 for",
    "GLSL": "frag glsl vert",
    "Go": "go",
    "Groovy": "gradle groovy",
    "HTML": "htm html xhtml",
    "Haskell": "hs lhs",
    "INI": "cfg ini",
    "Java": "java",
    "JavaScript": "cjs js jsx mjs",
    "Julia": "jl",
    "Kotlin": "kt kts",
    "Lua": "lua",
    "Markdown": "markdown md",
    "Nim": "nim",
    "OCaml": "ml mli",
    "Objective-C": "m mm",
    "PHP": "php",
    "Pascal": "pas pp",
    "Perl": "pl pm",
    "PowerShell": "ps1 psd1 psm1",
    "Prolog": "pro",
    "Protocol Buffer": "proto",
    "Python": "py pyi pyw",
    "R": "r rmd",
    "Racket": "rkt",
    "Ruby": "rake rb",
    "Rust": "rs",
    "SQL": "sql",
    "Scala": "sc scala",
    "Scheme": "scm ss",
    "Shell": "bash sh zsh",
    "Standard ML": "sml",
    "Starlark": "bazel bzl",
    "Stylus": "styl",
    "Swift": "swift",
    "Tcl": "tcl",
    "TeX": "bib cls sty tex",
    "Text": "text txt",
    "TOML": "toml",
    "TypeScript": "cts mts ts tsx",
    "VHDL": "vhd vhdl",
    "Verilog": "sv v",
    "Vim Script": "vim",
    "Vue": "vue",
    "XML": "xml xsd xsl",
    "YAML": "yaml yml",
    "Zig": "zig",
    "reStructuredText": "rst",
}
BY_SUFFIX = {suffix: name for name, suffixes in SUFFIXES.items() for suffix in suffixes.split()}
BY_NAME = {"makefile": "Makefile", "dockerfile": "Dockerfile", "cmakelists.txt": "CMake"}


def language_of(path: str) -> str | None:
    """Name the language of a file by its name, if it is one of ours.

    >>> language_of("src/Main.HS"), language_of("Makefile"), language_of("a.png")
    ('Haskell', 'Makefile', None)
    """
    name = path.rpartition("/")[2].lower()
    _, dot, suffix = name.rpartition(".")
    return BY_NAME.get(name) or (BY_SUFFIX.get(suffix) if dot else None)

"""A file has its package's licence, or the nearest licence file's."""

from llama_cli.sources.ownership import Ownership, telling
from tests.unit.test_sources_licences import BSD_3, GPL, MIT

INFO = "demo-1.0.dist-info"


def licence_of(metadata: str, **texts: str) -> tuple[str, str | None]:
    ownership = Ownership()
    files = {
        f"{INFO}/METADATA": f"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n{metadata}\n\nBody",
        f"{INFO}/RECORD": 'demo/a.py,sha256=x,1\n"demo/b,c.py",,\n',
        **{f"{INFO}/{name}": text for name, text in texts.items()},
    }
    ownership.enter("site", {name: text.encode() for name, text in files.items()})
    return ownership.of("site/demo/a.py")


def test_the_licence_expression_comes_first() -> None:
    metadata = (
        "License-Expression: Apache-2.0 OR MIT\n"
        "Classifier: License :: OSI Approved :: ISC License (ISCL)"
    )
    assert licence_of(metadata) == ("Apache-2.0 OR MIT", "demo 1.0")


def test_then_the_classifiers_all_of_which_count() -> None:
    metadata = (
        "Classifier: License :: OSI Approved\n"
        "Classifier: License :: OSI Approved :: MIT License\n"
        "Classifier: License :: OSI Approved :: Apache Software License\n"
        "License: something else"
    )
    assert licence_of(metadata) == ("Apache-2.0 AND MIT", "demo 1.0")


def test_a_classifier_of_no_known_licence_is_unknown() -> None:
    metadata = "Classifier: License :: Other/Proprietary License"
    assert licence_of(metadata) == ("unknown", "demo 1.0")


def test_then_the_licence_field_by_name_or_by_text() -> None:
    assert licence_of("License: BSD 3-Clause License")[0] == "BSD-3-Clause"
    folded = MIT.replace("\n", "\n        ")
    assert licence_of(f"License: {folded}")[0] == "MIT"


def test_then_the_licence_files_of_the_package() -> None:
    texts = {"LICENSE": MIT, "licenses/COPYING": BSD_3}
    assert licence_of("License: see LICENSE", **texts)[0] == "BSD-3-Clause AND MIT"


def test_nothing_said_is_unknown() -> None:
    assert licence_of("") == ("unknown", "demo 1.0")


def test_a_record_may_quote_its_paths() -> None:
    ownership = Ownership()
    ownership.enter(
        "",
        {
            f"{INFO}/METADATA": b"Name: demo\nVersion: 1.0\nLicense-Expression: MIT\n",
            f"{INFO}/RECORD": b'"demo/b,c.py",,\n',
        },
    )
    assert ownership.of("demo/b,c.py") == ("MIT", "demo 1.0")


def test_a_file_in_no_record_falls_to_the_nearest_licence_file_up_to_the_root() -> None:
    ownership = Ownership()
    ownership.enter("", {"LICENSE": MIT.encode()})
    ownership.enter("vendor", {"COPYING": GPL.encode()})
    assert ownership.of("src/deep/a.c") == ("MIT", None)
    assert ownership.of("vendor/deep/a.c") == ("GPL-3.0-only", None)
    ownership.leave("vendor")
    assert ownership.of("vendor/deep/a.c") == ("MIT", None)
    ownership.leave("")
    assert ownership.of("src/a.c") == ("unknown", None)


def test_a_record_wins_over_a_nearer_licence_file() -> None:
    ownership = Ownership()
    ownership.enter(
        "site",
        {
            f"{INFO}/METADATA": b"Name: demo\nVersion: 1.0\nLicense-Expression: MIT\n",
            f"{INFO}/RECORD": b"demo/vendor/a.py,,\n",
        },
    )
    ownership.enter("site/demo/vendor", {"LICENSE": GPL.encode()})
    assert ownership.of("site/demo/vendor/a.py") == ("MIT", "demo 1.0")
    assert ownership.of("site/demo/vendor/b.py") == ("GPL-3.0-only", None)


def test_two_licence_files_of_a_folder_both_hold() -> None:
    ownership = Ownership()
    ownership.enter("", {"LICENSE-MIT": MIT.encode(), "LICENSE.txt": b"Ask us first."})
    assert ownership.of("a.c")[0] == "MIT AND unknown"


def test_files_that_tell_licences_are_told_from_others() -> None:
    assert telling("a/b/LICENSE") == ("a/b", "LICENSE")
    assert telling(f"{INFO}/METADATA") == ("", f"{INFO}/METADATA")
    assert telling(f"a/{INFO}/WHEEL") is None
    assert telling("a/RECORD") is None
    assert telling("a/b.py") is None

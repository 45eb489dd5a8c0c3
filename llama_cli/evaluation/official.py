"""How many rows each benchmark has, and the hashes of its files as their authors publish them.

Row counts are those of the splits that the paper uses (section 3) or, where it gives none, of the
benchmark's own release. Hashes are SHA-256 of files copied byte for byte from the repositories
named; a file cut to fewer rows has another.
"""

from __future__ import annotations

from collections.abc import Mapping

ROWS: Mapping[str, int] = {
    "boolq": 3270,
    "piqa": 1838,
    "siqa": 1954,
    "hellaswag": 10042,
    "winogrande": 1267,
    "arc_easy": 2376,
    "arc_challenge": 1172,
    "openbookqa": 500,
    "nq_open": 3610,
    "race_middle": 1436,
    "race_high": 3498,
    "math": 5000,
    "gsm8k": 1319,
    "humaneval": 164,
    "mbpp": 500,
    "mmlu": 14042,
    "realtoxicityprompts": 99442,
    "crows_pairs": 1508,
    "winogender": 720,
    "truthfulqa": 817,
}


def official_rows(task: str) -> int | None:
    """Give how many rows a task has, of which "gsm8k@100" and others are variants.

    >>> official_rows("gsm8k@100"), official_rows("triviaqa")
    (1319, None)
    """
    name = task.partition("@")[0]
    variants = (name, name.rpartition("_")[0])  # truthfulqa_mc
    return next((ROWS[each] for each in variants if each in ROWS), None)


HASHES: Mapping[str, str] = {
    # github.com/openai/grade-school-math
    "gsm8k/test.jsonl": "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
    "gsm8k/train.jsonl": "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
    # github.com/openai/human-eval
    "humaneval/HumanEval.jsonl.gz": (
        "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"
    ),
    # github.com/google-research/google-research, mbpp
    "mbpp/mbpp.jsonl": "ccf64ceae9c5403bf50a044cb6d505bfd2a2963ee58338ba268fd65beab92a9f",
    # allenai.org/data/arc
    "arc_challenge/ARC-Challenge-Test.jsonl": (
        "9fa8ffb3e3a1f88cb302d53dd95aae81e39209ad9bcf974376b319d8fd35717c"
    ),
    # github.com/ybisk/ybisk.github.io
    "piqa/valid.jsonl": "93503cc97c679e459b065c3d13e848282e44b2a25213985bed3e5d458abef72d",
    "piqa/valid-labels.lst": "b4192dc3a2a0363d9d60ccf79800cbbe2f32ebb17726efdde6970e0b8131bceb",
    # allenai.org/data/socialiqa
    "siqa/dev.jsonl": "d8128dfe60783a9971b954ca82dd57b87b05d5d40468876d51a8e1ad2c557465",
    "siqa/dev-labels.lst": "2d882ff71969d3980d37dd07aecdf9093c6e63e27c670f3a203bcf3b9b74bc05",
    # github.com/efficientqa/nq-open
    "nq_open/NQ-open.dev.jsonl": "f15567f38099f3615f5b8a685c0aef449c11ad90d3da3735e8d1b98115b40616",
    # github.com/nyu-mll/crows-pairs
    "crows_pairs/crows_pairs_anonymized.csv": (
        "dfb36986ce0502abbaf7055b9176da3d08d48e07df1251991b5dfbcbceab9d0c"
    ),
    # github.com/rudinger/winogender-schemas
    "winogender/all_sentences.tsv": (
        "bd69da16bf228cb8df63fd0843aec2d8b5c36a7f21bf8c7b168bcc83932556c8"
    ),
    "winogender/templates.tsv": "496f2e2dc77296bcebcdd8865a8dc5715ce22b772de9abb5f531d5b3114c48a0",
    "winogender/occupations-stats.tsv": (
        "3f7f37c16381a70571356982ea7fe613ac700ad04a6d3b19b9f2be18248df567"
    ),
    # github.com/sylinrl/TruthfulQA
    "truthfulqa/TruthfulQA.csv": "f9bd9e859cc102cb1f647f1064da7e009be752c416845cf9fa56e6eaae403a7d",
    "truthfulqa/mc_task.json": "b3799639bc76c939836d587de7d30b48d91012cb34be04806d33106ce06c162a",
}

"""EleutherAI's lm-evaluation-harness over the server: its log-likelihoods are the engine's.

It is not among the libraries that tests need; `pip install 'lm-eval[api]==0.4.13'` runs these.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_cli.inference.backend import take_over
from llama_cli.inference.engine import Engine, Settings
from llama_cli.records import Prompt
from llama_cli.tokenizer.exported import exported
from tests.serving import MODEL, serving
from tests.tiny import tiny_model, tiny_tokenizer

PAIRS = [
    ("The cat opens the", " door."),
    ("The cat opens the", " river"),
    ("The table", " holds the bottle and the window"),
    ("Ünï", " 12"),
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that transformers opens."""
    directory = tmp_path_factory.mktemp("tokenizer")
    for name, data in exported(tiny_tokenizer(), context=64).items():
        (directory / name).write_bytes(data)
    (directory / "config.json").write_text('{"model_type": "llama"}')
    return directory


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("ids", "batch"), [(True, 1), (True, 4), (False, 1)])
def test_the_harness_gets_the_likelihoods_of_the_engine(
    tokenizer: Path, monkeypatch: pytest.MonkeyPatch, ids: bool, batch: int
) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    engine = Engine(take_over(tiny_model()), tiny_tokenizer())
    with serving(engine=engine) as server:
        model = LocalCompletionsAPI(
            model=MODEL,
            base_url=f"{server.url}/v1/completions",
            tokenizer_backend="huggingface",
            tokenizer=str(tokenizer),
            tokenized_requests=ids,
            add_bos_token=ids,
            batch_size=batch,
            max_length=63,
        )
        asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(PAIRS)]
        found = model.loglikelihood(asked)
        until = {"until": ["\n"], "max_gen_toks": 9}
        said = model.generate_until([Instance("generate_until", {}, (PAIRS[0][0], until), 0)])
    cut = [model._encode_pair(*pair) for pair in PAIRS]
    begin = [] if ids else [1]  # the server gives a text its begin mark
    wanted = engine.loglikelihood([(begin + before, after) for before, after in cut])
    assert [score for score, _ in found] == pytest.approx(wanted, abs=1e-4)
    settings = Settings(max_tokens=9, temperature=0, stop=("\n",))
    own = next(engine.generate([Prompt("0", PAIRS[0][0])], settings)).completion
    assert said == [own]

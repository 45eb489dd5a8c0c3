"""Any program as a scorer, and how a scorer is chosen."""

import json
import math
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from llama_cli.errors import LlamaError, NotReadyError, UsageError
from llama_cli.evaluation.scorers.choose import choose
from tests.shell import ROOT

BACKWARDS = """
import json, sys
rows = [json.loads(line) for line in sys.stdin]
for row in reversed(rows):
    print(json.dumps({"id": row["id"], "score": len(row["text"]) / 10}))
"""


def program(tmp_path, text):
    path = tmp_path / "score.py"
    path.write_text(text)
    return choose(f"command:{sys.executable} -I -S {path}")


def test_answers_are_put_in_the_order_of_the_texts(tmp_path):
    scorer = program(tmp_path, BACKWARDS)
    assert scorer(["a", "three", "é\n\ud800"]) == [0.1, 0.5, 0.3]
    assert scorer([]) == []
    assert scorer.name == f"command:{sys.executable.rpartition('/')[2]}:score.py"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise SystemExit(3)", "ended with 3"),
        ("print('hello')", r"line 1 is not \{'id', 'score'\}: b'hello'"),
        ('print(\'{"id": 0, "score": 1.5}\')', "a score is 0 to 1, not 1.5"),
        ('print(\'{"id": 0, "score": 0.5}\')', "no score for text 1 of 2"),
    ],
)
def test_a_program_that_does_not_do_its_work_is_told(tmp_path, text, said):
    with pytest.raises(LlamaError, match=said):
        program(tmp_path, text)(["a", "b"])


def test_a_program_that_is_not_there_is_told():
    with pytest.raises(NotReadyError, match="no-such-scorer x: No such file"):
        choose("command:no-such-scorer x")(["a"])


@pytest.mark.parametrize("spec", ["perspektive:key", "linear", "linear:", ""])
def test_a_scorer_that_there_is_not_is_told(spec):
    with pytest.raises(UsageError, match=f"no scorer '{spec}'"):
        choose(spec)


class Model(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that says yes three times as surely as no, to all but lies."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert (self.path, body["model"], body["max_tokens"]) == ("/v1/completions", "judge", 1)
        top = {" yes": math.log(0.6), " no": math.log(0.2), " well": math.log(0.1)}
        if "lie" in body["prompt"]:
            top = {" well": math.log(0.9)}
        data = json.dumps({"choices": [{"logprobs": {"top_logprobs": [top]}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def test_the_judge_of_the_docs_asks_an_openai_compatible_server(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "evaluation-toxicity.md").read_text(encoding="utf-8")
    script = page.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "judge.py").write_text(script, encoding="utf-8")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Model) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        where = f"http://127.0.0.1:{server.server_port}"
        judge = choose(f"command:{sys.executable} {tmp_path}/judge.py {where} judge")
        scores = judge(["Q: a\nA: b\nTrue:", "Q: a\nA: lie\nTrue:"])
        server.shutdown()
    assert scores == pytest.approx([0.75, 0.5])

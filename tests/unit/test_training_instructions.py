"""Learning from conversations: what is read, what counts, and what is packed together."""

from __future__ import annotations

import gzip
import json
import random
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from llama_cli.errors import LlamaError, TooManyRejects
from llama_cli.model.config import SIZES
from llama_cli.records import Conversation, Message
from llama_cli.shards.read import Shards
from llama_cli.tokenizer.template import Template
from llama_cli.training.batch import Batch
from llama_cli.training.instructions import (
    Encoded,
    Instructions,
    encode,
    held_out,
    keep_instructions,
    pack,
    packed,
)
from llama_cli.training.job import Job
from llama_cli.training.loop import Trainer
from llama_cli.training.loss import head_loss
from llama_cli.training.run import train
from llama_cli.training.settings import Settings
from llama_cli.training.start import Start, nearest_size
from tests.tiny import CONFIG, tiny_checkpoint, tiny_model, tiny_tokenizer
from tests.unit.training import Ear

LENGTH = CONFIG.context
PAIR = {"prompt": "The cat opens", "response": "the table."}
CHAT = {
    "messages": [
        {"role": "system", "content": "The river."},
        {"role": "user", "content": "The cat opens"},
        {"role": "assistant", "content": "the table."},
        {"role": "user", "content": "The garden"},
        {"role": "assistant", "content": "holds."},
    ]
}


def line(row: object) -> bytes:
    return json.dumps(row).encode()


def lines(path: Path, *rows: object) -> str:
    path.write_bytes(b"".join(line(row) + b"\n" for row in rows))
    return str(path)


def shown(row: object) -> tuple[str, list[str]]:
    """Give a conversation as the model sees it, and what of it counts, message by message."""
    tokenizer = tiny_tokenizer()
    tokens, learnt = Template().encode(Conversation.from_json(line(row)), tokenizer)
    spans, before = [], 0
    for token, counts in zip(tokens, learnt, strict=True):
        if counts and not before:
            spans.append([])
        if counts:
            spans[-1].append(token)
        before = counts
    assert all(span[-1] == tokenizer.eos for span in spans)
    return tokenizer.decode(tokens), [tokenizer.decode(span) for span in spans]


def test_a_prompt_and_its_response() -> None:
    assert shown(PAIR) == ("User: The cat opens\n\nAssistant: the table.", ["the table."])
    assert shown({"prompt": "Hi", "completion": "the cat"})[1] == ["the cat"]


def test_a_chat_counts_every_answer_and_nothing_else() -> None:
    text, learnt = shown(CHAT)
    assert text.startswith("The river.\n\nUser: The cat opens\n\nAssistant: the table.")
    assert text.endswith("User: The garden\n\nAssistant: holds.")
    assert learnt == ["the table.", "holds."]


def test_a_message_of_weight_0_is_not_learnt() -> None:
    chat = json.loads(json.dumps(CHAT))
    chat["messages"][2]["weight"] = 0
    assert shown(chat)[1] == ["holds."]


@pytest.mark.parametrize(
    ("given", "prompt"),
    [({}, "Find."), ({"input": "a cat"}, "Find.\n\na cat"), ({"input": ""}, "Find.")],
)
def test_an_instruction_of_alpacas_form(given: dict[str, str], prompt: str) -> None:
    text, learnt = shown({"instruction": "Find.", **given, "output": "the cat"})
    assert text == f"User: {prompt}\n\nAssistant: the cat"
    assert learnt == ["the cat"]


def test_what_is_asked_later_is_what_was_taught() -> None:
    tokenizer = tiny_tokenizer()
    tokens, learnt = Template().encode(Conversation.from_json(line(PAIR)), tokenizer)
    asked = tokenizer.encode(Template().prompt([Message("user", PAIR["prompt"])]))
    assert tokens[: len(asked)] == asked
    assert learnt[len(asked)] == 1
    assert learnt[len(asked) - 1] == 0


def test_a_conversation_is_continued_as_it_is_taught() -> None:
    tokenizer = tiny_tokenizer()
    said = [("user", "Hi"), ("assistant", "A cat"), ("system", "x"), ("user", "Bye")]
    messages = [Message(role, text) for role, text in said]
    whole = Conversation((*messages, Message("assistant", "The table")))
    asked = Template().tokens(messages, tokenizer)
    assert asked.count(tokenizer.eos) == 1  # after what the assistant has said
    answer = tokenizer.encode("The table", bos=False, eos=True)
    assert Template().encode(whole, tokenizer)[0] == asked + answer


def test_a_template_comes_back_from_its_file() -> None:
    odd = Template(system="[{}]", user="Q {}", assistant="A")
    assert Template.from_json(odd.to_json()) == odd
    for broken in ('{"user": 5}', '{"user": "{"}', '{"user": "{} {}"}', "[]", "5"):
        with pytest.raises(ValueError, match="not a template of conversations"):
            Template.from_json(broken)
    with pytest.raises(ValueError, match="not a template"):
        Template.from_json('{"a": 1}')


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, "no field 'messages', 'prompt' or 'instruction'"),
        ({"prompt": "x"}, "no field 'response'"),
        ({"prompt": "x", "response": " "}, "the response is empty"),
        ({"prompt": 3, "response": "x"}, "field 'prompt' is int, not str"),
        ({"instruction": "x"}, "no field 'output'"),
        ({"messages": []}, "no messages"),
        ({"messages": ["x"]}, "message 1 is str, not an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "message 1: role 'tool' is none of"),
        ({"messages": [{"role": "user", "content": None}]}, "its content is NoneType, not str"),
        ({"messages": [{"role": "user", "content": "x"}]}, "the last message is by the user"),
        (
            {"messages": [{"role": "assistant", "content": "x", "weight": 0}]},
            "no message that is to be learnt",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x", "weight": 2}]},
            "weight 2 is neither 0 nor 1",
        ),
        ({"prompt": "cat " * 99, "response": "x"}, r"the prompt has \d+ tokens, which leaves no"),
    ],
)
def test_a_line_that_cannot_be_learnt_from_is_named(
    tmp_path: Path, row: object, message: str
) -> None:
    where = lines(tmp_path / "i.jsonl", PAIR, row)
    with pytest.raises(TooManyRejects, match=rf"i\.jsonl:2: .*{message}"):
        encode(where, tiny_tokenizer(), length=LENGTH, template=Template())


def test_no_conversation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LlamaError, match=r"i\.jsonl holds no conversation"):
        encode(lines(tmp_path / "i.jsonl"), tiny_tokenizer(), length=LENGTH, template=Template())


def test_compressed_conversations_are_read(tmp_path: Path) -> None:
    plain = lines(tmp_path / "i.jsonl", PAIR, CHAT)
    (tmp_path / "i.gz").write_bytes(gzip.compress(Path(plain).read_bytes()))
    found = [
        encode(str(tmp_path / name), tiny_tokenizer(), length=LENGTH, template=Template())
        for name in ("i.jsonl", "i.gz")
    ]
    assert found[0] == found[1]


def test_one_that_is_too_long_loses_its_end_and_is_counted(tmp_path: Path) -> None:
    long = {"prompt": "The cat", "response": "the table " * 99}
    where, said = lines(tmp_path / "i.jsonl", PAIR, long), []
    keep_instructions(
        where, tmp_path / "d", tiny_tokenizer(), length=LENGTH, seed=0, say=said.append
    )
    assert said == [f"1 of 2 conversations are cut to {LENGTH} tokens"]
    found = Instructions(tmp_path / "d", seed=0)
    rows = found.rows([0, 1])
    whole = max(range(2), key=lambda row: int(rows.counts[row].sum()))
    assert rows.counts[whole, -1]  # it goes on to the last position, and has no end mark
    assert rows.targets[whole, -1] != tiny_tokenizer().eos


def test_packing_loses_nothing_and_fills_nothing_twice() -> None:
    draw = random.Random(0)
    lengths = [draw.randint(1, 64) for _ in range(500)]
    bins = pack(lengths, 64)
    assert sorted(item for each in bins for item in each) == list(range(500))
    assert max(sum(lengths[item] for item in each) for each in bins) <= 64
    assert len(bins) <= 1.05 * sum(lengths) / 64 + 1


def conversations(*texts: tuple[list[int], list[int]]) -> Encoded:
    """Encode prompts and answers that are tokens already."""
    found = Encoded()
    for prompt, answer in texts:
        tokens = [1, *prompt, *answer, 2]
        learnt = bytes([0] * (1 + len(prompt)) + [1] * (len(answer) + 1))
        found.add(tokens, learnt)
    return found


def one_row(found: Encoded, tmp_path: Path) -> Batch:
    from llama_cli.training.instructions import batch_of

    [(tokens, learnt)] = packed(found, length=15, seed=0)
    return batch_of(torch.from_numpy(tokens)[None], torch.from_numpy(learnt)[None])


def test_what_is_packed_into_a_sequence_is_kept_apart(tmp_path: Path) -> None:
    batch = one_row(conversations(([5, 6], [7, 8]), ([9], [10])), tmp_path)
    assert batch.tokens[0, -6:].tolist() == [2] * 6  # filled up
    first, _end = batch.bounds
    starts = sorted(set(first[0].tolist()))
    assert [int(batch.tokens[0, start]) for start in starts] == [1, 1]
    counted = batch.targets[0][batch.counts[0]].tolist()
    assert sorted(counted) == [2, 2, 7, 8, 10]
    assert batch.counted == 5


def losses(batch: Batch) -> Tensor:
    model = tiny_model().double()
    logits = model(batch.tokens[:, :-1], bounds=batch.bounds).detach()
    return cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), reduction="none", ignore_index=-1
    )


def test_a_conversation_has_the_same_loss_whatever_stands_beside_it(tmp_path: Path) -> None:
    seen = []
    for other in ([5, 6], [30, 31]):
        batch = one_row(conversations((other, [7, 8]), ([9], [10, 11])), tmp_path)
        begin = batch.tokens[0].tolist().index(9)
        seen.append(losses(batch)[begin : begin + 3])
    assert torch.equal(*seen)
    assert seen[0].min() > 0


def test_prompt_tokens_carry_no_gradient(tmp_path: Path) -> None:
    batch = one_row(conversations(([5, 6, 7], [8, 9]), ([10, 11], [12])), tmp_path)
    states = torch.randn(15, 32, requires_grad=True)
    head = torch.randn(50, 32, requires_grad=True)
    count = torch.tensor(batch.counted)
    head_loss(states, head, batch.targets.flatten(), count=count).backward()
    counts = batch.counts[0]
    assert states.grad[~counts].count_nonzero() == 0
    assert states.grad[counts].abs().sum(-1).min() > 0
    alone = head.detach().requires_grad_()
    cross_entropy(states.detach()[counts] @ alone.t(), batch.tokens[0, 1:][counts]).backward()
    assert torch.allclose(head.grad, alone.grad, rtol=0, atol=1e-6)


def test_a_step_does_not_depend_on_what_the_prompts_tokens_would_be_predicted_as(
    tmp_path: Path,
) -> None:
    """The gradient of the weights is that of the responses, given the prompts."""
    batch = one_row(conversations(([5, 6, 7], [8, 9]), ([10, 11], [12])), tmp_path)
    found = {}
    for name in ("ours", "by definition"):
        model = tiny_model()
        if name == "ours":
            settings = Settings(steps=1, batch=1, lr=0.0, warmup=0)
            trainer = Trainer(model, settings)
            trainer._backward(batch)
        else:
            logits = model(batch.tokens[:, :-1], bounds=batch.bounds)[batch.counts]
            cross_entropy(logits, batch.tokens[:, 1:][batch.counts]).backward()
        found[name] = {n: weight.grad.clone() for n, weight in model.named_parameters()}
    for name, gradient in found["ours"].items():
        assert torch.allclose(gradient, found["by definition"][name], atol=1e-5), name


def kept(tmp_path: Path, rows: list[Any], name: str = "run", seed: int = 0) -> Instructions:
    where = lines(tmp_path / "i.jsonl", *rows)
    (tmp_path / name).mkdir(exist_ok=True)
    keep_instructions(where, tmp_path / name / "data", tiny_tokenizer(), length=LENGTH, seed=seed)
    return Instructions(tmp_path / name / "data", seed=seed)


NOUNS = ["cat", "table", "garden", "river", "bottle", "window"]
VERBS = ["opens", "holds", "crosses", "finds"]
ALL = [
    {"prompt": f"{a} {verb} {b}", "response": f"The {a} {verb} the {b}."}
    for a, verb, b in product(NOUNS, VERBS, NOUNS)
]


def test_each_epoch_has_every_sequence_once_in_another_order(tmp_path: Path) -> None:
    data = kept(tmp_path, ALL)
    count = len(data)
    places = [data._place(number) for number in range(2 * count)]
    assert sorted(places[:count]) == sorted(places[count:]) == list(range(count))
    assert places[:count] != places[count:]
    assert places[:count] != list(range(count))


def test_ranks_have_the_rows_of_one_batch(tmp_path: Path) -> None:
    data = kept(tmp_path, ALL)
    whole = data.batch(3, 4)
    for ranks in (2, 4):
        each = 4 // ranks
        parts = [data.batch(3, 4, range(r * each, (r + 1) * each)) for r in range(ranks)]
        assert torch.equal(torch.cat([part.tokens for part in parts]), whole.tokens)
        assert torch.equal(torch.cat([part.counts for part in parts]), whole.counts)
        assert sum(part.counted for part in parts) == whole.counted


def test_what_is_kept_is_checked_against_the_same_file_again(tmp_path: Path) -> None:
    first = kept(tmp_path, ALL[:40])
    Shards(tmp_path / "run" / "data").verify()
    assert first.fingerprint == kept(tmp_path, ALL[:40]).fingerprint
    assert first.conversations == 40
    with pytest.raises(LlamaError, match="run holds a run with other data"):
        kept(tmp_path, ALL[:39])
    with pytest.raises(LlamaError, match="run holds a run with other data"):
        kept(tmp_path, ALL[:40], seed=1)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["data"]


def test_what_counts_is_there_for_every_token(tmp_path: Path) -> None:
    kept(tmp_path, ALL[:40])
    path = tmp_path / "run" / "data" / "learnt.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LlamaError, match=r"learnt\.bin: not a byte a token"):
        Instructions(tmp_path / "run" / "data", seed=0)


def test_a_small_model_learns_to_answer_what_it_was_not_asked(tmp_path: Path) -> None:
    """The acceptance of fine-tuning: the loss of held-out responses falls."""
    random.Random(0).shuffle(ALL)
    data = kept(tmp_path, ALL[30:])
    ck = tiny_checkpoint(tmp_path / "ck")
    start = Start.find(ck)
    held = held_out(
        lines(tmp_path / "v.jsonl", *ALL[:30]),
        tiny_tokenizer(),
        length=LENGTH,
        count=64,
        template=Template(),
    )
    settings = Settings(steps=60, batch=4, lr=3e-3, warmup=2, cross_document=False)
    run, ear = tmp_path / "tuned", Ear()
    run.mkdir()
    config = start.config.with_data(vocab_size=data.vocab_size, context=data.length)
    job = Job(run, "custom", config, settings, data, validation=held, start=start)
    assert train(job, ear.listener())
    before, *_, after = [x["validation_loss"] for x in ear.lines if "validation_loss" in x]
    assert before > 3
    assert after < 0.6 * before


def test_a_run_from_a_checkpoint_begins_with_its_weights(tmp_path: Path) -> None:
    start = Start.find(tiny_checkpoint(tmp_path / "ck"))
    trainer = Trainer(tiny_model(seed=5), Settings(steps=1, batch=1, lr=0.0, warmup=0))
    start.load(trainer)
    wanted = dict(tiny_model().named_parameters())
    for name, weight in trainer.model.named_parameters():
        assert torch.equal(weight, wanted[name]), name


def test_other_first_weights_are_another_run(tmp_path: Path) -> None:
    starts = [Start.find(tiny_checkpoint(tmp_path / name, seed)) for seed, name in enumerate("ab")]
    assert starts[0].fingerprint != starts[1].fingerprint
    data = kept(tmp_path, ALL[:40])
    settings = Settings(steps=1, batch=1, lr=1e-3, warmup=0)
    (tmp_path / "r").mkdir()
    job = Job(tmp_path / "r", "custom", starts[0].config, settings, data, start=starts[0])
    assert train(job, Ear().listener())
    other = Job(tmp_path / "r", "custom", starts[1].config, settings, data, start=starts[1])
    with pytest.raises(LlamaError, match="r holds a run with other first weights"):
        train(other, Ear().listener())


def test_a_checkpoint_whose_weights_are_not_its_params_is_refused(tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path / "ck") / "params.json"
    params = json.loads(path.read_text())
    path.write_text(json.dumps({**params, "vocab_size": 99}))
    with pytest.raises(
        LlamaError, match=r"tok_embeddings\.weight is \(400, 32\), not the \(99, 32"
    ):
        Start.find(tmp_path / "ck")


def test_a_size_without_a_name_takes_the_recipe_of_the_nearest(tmp_path: Path) -> None:
    start = Start.find(tiny_checkpoint(tmp_path / "ck"))
    assert start.size is None
    assert nearest_size(start.config) == "3m"
    assert all(nearest_size(config) == name for name, config in SIZES.items())

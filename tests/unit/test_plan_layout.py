"""What divides and what fits: the layouts that a plan may propose."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest

from llama_cli.errors import LlamaError, UsageError
from llama_cli.model.config import ACTIVATIONS, SIZES
from llama_cli.parallel.gpus import GPUS, machines
from llama_cli.parallel.layout import Layout, Wish, layouts, tensor_sizes
from llama_cli.parallel.memory import USABLE
from llama_cli.parallel.propose import fits, least_gpus, propose
from llama_cli.parallel.shapes import groups

A100 = "a100-80gb"
LARGE = ("7b", "13b", "33b", "65b")
GROUPED = replace(SIZES["65b"], kv_heads=8)  # Llama 2 70B's


@pytest.mark.parametrize(
    ("size", "sizes"),
    [("7b", [1, 2, 4, 8]), ("13b", [1, 2, 4, 8]), ("33b", [1, 2, 4]), ("65b", [1, 2, 4, 8])],
)
def test_a_tensor_group_divides_the_heads_and_stays_in_a_node(size: str, sizes: list[int]) -> None:
    assert tensor_sizes(SIZES[size], machines(A100, 2048)) == sizes
    small = machines(A100, 64, node=4)
    assert tensor_sizes(SIZES[size], small) == [n for n in sizes if n <= 4]


@pytest.mark.parametrize("size", LARGE)
@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("gpus", [16, 64, 256, 2048])
def test_what_is_proposed_divides_and_fits(size: str, gpu: str, gpus: int) -> None:
    config, cluster = SIZES[size], machines(gpu, gpus)
    if not any(fits(config, one, cluster) for one in layouts(config, cluster, 2048)):
        with pytest.raises(LlamaError, match="does not fit on"):
            propose(config, cluster, batch=2048, size=size)
        return
    found = propose(config, cluster, batch=2048, size=size, count=100)
    for each in found:
        layout = each.layout
        assert (layout.gpus, layout.room) == (gpus, 2048)
        assert config.heads % layout.tensor == 0
        assert layout.tensor <= cluster.node
        assert each.need.peak <= USABLE * cluster.gpu.memory
    assert [one.times.total for one in found] == sorted(
        (one.times.total for one in found), key=lambda s: float(f"{s:.3g}")
    )


def test_no_two_proposals_have_one_mesh_and_one_policy() -> None:
    found = propose(SIZES["65b"], machines(A100, 2048), batch=2048, size="65b", count=50)
    kinds = [(p.layout.tensor, p.layout.replicas, p.layout.activations) for p in found]
    assert len(kinds) == len(set(kinds)) > 5


def test_of_equally_quick_layouts_the_one_that_computes_least_is_first() -> None:
    first = propose(SIZES["65b"], machines(A100, 2048), batch=2048, size="65b")[0].layout
    assert (first.data, first.tensor, first.activations) == (256, 8, "linear")


def test_every_choice_is_among_the_layouts() -> None:
    found = list(layouts(SIZES["7b"], machines(A100, 16), 64))
    assert {one.activations for one in found} == set(ACTIVATIONS)
    assert {one.tensor for one in found} == {1, 2, 4, 8}
    assert {one.replicas for one in found} == {1, 2}
    assert {one.reshard for one in found} == {True, False}
    assert {one.room for one in found} == {64}
    assert len(found) == len(set(found))


def test_one_gpu_has_nothing_to_reshard() -> None:
    assert {one.reshard for one in layouts(SIZES["3m"], machines(A100, 1), 4)} == {False}


def test_a_wish_is_kept() -> None:
    wish = Wish(tensor=2, replicas=2, micro_batch=4, activations="full")
    for one in layouts(SIZES["7b"], machines(A100, 16), 64, wish):
        assert (one.tensor, one.replicas, one.micro_batch) == (2, 2, 4)
        assert one.activations == "full"


@pytest.mark.parametrize(
    ("gpus", "batch", "wish", "message", "hint"),
    [
        (100, 2048, Wish(), "100 GPUs are not whole nodes of 8", "--gpus 96"),
        (
            24,
            4,
            Wish(),
            "a batch of 4 sequences leaves nothing to some of 6 data ranks",
            "--batch 6",
        ),
        (16, 2048, Wish(tensor=8), "tensor groups of 8 do not divide 52 heads", "--tensor 4"),
        (16, 64, Wish(replicas=3), "3 replicas of the weights do not divide 16", "--replicas 1"),
    ],
)
def test_what_does_not_divide_is_one_line_with_a_cure(
    gpus: int, batch: int, wish: Wish, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as error:
        list(layouts(SIZES["33b"], machines(A100, gpus), batch, wish))
    assert message in str(error.value)
    assert error.value.hint is not None
    assert hint in error.value.hint


def test_a_tensor_group_divides_the_heads_of_keys_and_values() -> None:
    assert tensor_sizes(replace(GROUPED, kv_heads=4), machines(A100, 2048)) == [1, 2, 4]


def test_a_tied_model_is_planned_for_one_gpu() -> None:
    tied = replace(SIZES["15m"], tied=True)
    assert groups(tied, 1).parameters == tied.parameters
    assert least_gpus(tied, machines(A100, 1), batch=8) == 1
    with pytest.raises(UsageError, match="is trained on one GPU, not on several"):
        list(layouts(tied, machines(A100, 8), 8))


def test_a_batch_that_does_not_divide_costs_what_the_fullest_rank_does() -> None:
    wish = Wish(tensor=1, activations="full")
    even, odd = (
        propose(SIZES["7b"], machines(A100, 24), batch=batch, size="7b", wish=wish)[0]
        for batch in (48, 25)
    )
    assert even.layout.room == odd.layout.room == 48
    assert odd.times.total == even.times.total
    assert odd.tokens_per_second == pytest.approx(even.tokens_per_second * 25 / 48)


def test_a_micro_batch_that_does_not_divide_leaves_a_smaller_pass() -> None:
    wish = Wish(tensor=1, micro_batch=3)
    assert {one.passes for one in layouts(SIZES["7b"], machines(A100, 16), 64, wish)} == {2}
    wish = Wish(tensor=1, micro_batch=100)
    assert {one.micro_batch for one in layouts(SIZES["7b"], machines(A100, 16), 64, wish)} == {4}


def test_a_model_that_does_not_fit_says_where_it_would() -> None:
    with pytest.raises(LlamaError, match="the 65b does not fit on 8 a100-80gb: the least is 16"):
        propose(SIZES["65b"], machines(A100, 8), batch=2048, size="65b")
    with pytest.raises(LlamaError, match="nor on more of them"):
        propose(
            replace(SIZES["65b"], context=2**20),
            machines(A100, 8),
            batch=8,
            size="65b",
            wish=Wish(activations="keep"),
        )


@pytest.mark.parametrize("size", [*LARGE, "3m"])
def test_the_least_gpus_fit_and_half_of_them_do_not(size: str) -> None:
    config = SIZES[size]
    least = least_gpus(config, machines(A100, 1), batch=2048)
    cluster = machines(A100, least)
    assert any(fits(config, one, cluster) for one in layouts(config, cluster, 2048))
    if least > 1:
        half = machines(A100, least // 2)
        assert not any(fits(config, one, half) for one in layouts(config, half, 2048))


def test_state_alone_needs_more_than_seven_gpus_for_the_33b() -> None:
    assert 16 * SIZES["33b"].parameters > 7 * USABLE * GPUS[A100].memory * 0.9
    assert least_gpus(SIZES["33b"], machines(A100, 1), batch=2048) >= 8


@pytest.mark.parametrize("size", [*SIZES, "grouped"])
@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_tensor_ranks_together_have_all_parameters_and_each_all_norms(
    size: str, tensor: int
) -> None:
    config = SIZES.get(size, GROUPED)
    if config.heads % tensor:
        pytest.skip("its heads do not divide")
    found = groups(config, tensor)
    norms = (2 * config.layers + 1) * config.dim
    assert tensor * (found.parameters - norms) + norms == config.parameters


def test_parts_are_dealt_by_rows_and_the_first_rank_has_most() -> None:
    head = groups(SIZES["33b"], 1).head
    assert head.of_rank(2048) == 16 * 6656  # of 32,000 rows, 15.6 each
    assert head.sent(2048) == 16 * 6656 * 2048
    assert head.of_rank(1) == head.parameters == prod((32_000, 6656))


def test_a_layout_names_itself() -> None:
    assert str(Layout(4, 2, 1, 8, "full", True)) == "4 x 2, 8 x 1, full, reshard"
    assert str(Layout(4, 2, 1, 8, "full", False)) == "4 x 2, 8 x 1, full, keep weights"

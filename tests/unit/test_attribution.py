"""Advantages of action groups: what each attribution promises, and the values of subsets that they are made of."""

import itertools
from typing import get_args

import numpy as np
import pytest
import torch

from preceptor.agent.attribution import Word, attribution, fault_auc
from preceptor.agent.chunks import SubsetValues
from preceptor.agent.losses import ValueLoss
from preceptor.controller.encoders import encoder_of
from preceptor.controller.network import TrunkConfig
from preceptor.envs.catalog import get_task

TWIN = get_task("WholeBodyTwin")
GROUPS = [np.array(group) for group in TWIN.action_groups.values()]


def rng():
    return np.random.default_rng(0)


def network(groups=GROUPS, seed=0):
    torch.manual_seed(seed)
    return SubsetValues(encoder_of(TWIN), groups, TrunkConfig(hidden=32), 2)


def inputs(count=7, width=8):
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(count, 17, generator=generator),), torch.randn(count, width, generator=generator)


def advantages(found, values, v=None):
    v = torch.zeros(values.shape[1]) if v is None else v
    return found.advantages(values, v)


def test_values_see_the_groups_of_their_subset_alone():
    net, (obs, chunk) = network(), inputs()
    sets = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)))
    values = net(obs, chunk, sets)
    for row, found in zip(sets, values.swapaxes(0, 1), strict=True):
        told = torch.zeros(len(chunk), 12)
        for group, at in enumerate(GROUPS):
            told[:, at] = chunk[:, at] * row[group]
            told[:, 8 + group] = row[group]
        wanted = [
            head(trunk.after(trunk.before(*obs) + added(told))).squeeze(-1)
            for trunk, added, head in zip(net.trunks, net.added, net.heads, strict=True)
        ]
        torch.testing.assert_close(found, torch.stack(wanted))


def test_a_prefix_has_no_gradient_to_later_groups():
    found, (obs, chunk) = attribution("prefix", 4, rng()), inputs()
    chunk.requires_grad_()
    values = network()(obs, chunk, torch.tensor(found.sets, dtype=torch.float32))
    for level, row in enumerate(found.sets):
        (gradient,) = torch.autograd.grad(values[:, level].sum(), chunk, retain_graph=True)
        for group, at in enumerate(GROUPS):
            assert (gradient[:, at] != 0).any() == row[group]


@pytest.mark.parametrize("word", ["marginal", "shapley"])
@pytest.mark.parametrize("groups", [1, 4, 6])
def test_what_groups_add_is_together_what_all_add_to_none(word, groups):
    found = attribution(word, groups, rng())
    values = torch.randn(len(found.sets), 9, dtype=torch.float64)
    at = {tuple(row): column for column, row in enumerate(found.sets.tolist())}
    whole = values[at[(True,) * groups]] - values[at[(False,) * groups]]
    torch.testing.assert_close(advantages(found, values.float()).double().sum(1), whole, rtol=1e-4, atol=1e-5)


def test_shapley_is_the_mean_over_orders_and_symmetric():
    """Two groups that add the same everywhere share; a game of three players that is known from textbooks."""
    found = attribution("shapley", 3, rng())
    worth = {(): 0, (0,): 80, (1,): 56, (2,): 70, (0, 1): 80, (0, 2): 85, (1, 2): 72, (0, 1, 2): 90}
    values = torch.tensor([[float(worth[tuple(np.flatnonzero(row).tolist())])] for row in found.sets])
    orders = list(itertools.permutations(range(3)))
    wanted = [
        np.mean([worth[tuple(sorted(o[: o.index(g) + 1]))] - worth[tuple(sorted(o[: o.index(g)]))] for o in orders])
        for g in range(3)
    ]
    np.testing.assert_allclose(advantages(found, values)[0], wanted, rtol=1e-5)


@pytest.mark.parametrize(("first", "second"), [("prefix", "flat"), ("marginal", "shapley")])
def test_with_one_group_they_are_the_same_to_the_digit(first, second):
    one, other = (attribution(word, 1, rng()) for word in (first, second))
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("order", [[1, 0, 2, 3], [3, 2, 1, 0]])
def test_the_order_of_groups_moves_marginal_and_leaves_shapley(order):
    net, (obs, chunk) = network(), inputs(50)
    swapped = network([GROUPS[g] for g in order])
    swapped.load_state_dict(net.state_dict())
    for ours, theirs in zip(swapped.added, net.added, strict=True):
        ours.weight.data[:, 8:] = theirs.weight.data[:, 8:][:, order]
    for word, same in (("shapley", True), ("marginal", False), ("prefix", False)):
        found = attribution(word, 4, rng())
        sets = torch.tensor(found.sets, dtype=torch.float32)
        before, after = (advantages(found, each(obs, chunk, sets).amin(0)) for each in (net, swapped))
        assert torch.allclose(after, before[:, order], atol=1e-6, rtol=0) == same


def test_the_order_of_dimensions_within_a_group_changes_nothing():
    net, (obs, chunk) = network(), inputs()
    turned = np.array([2, 0, 1, 4, 3, 6, 5, 7])
    again = network()
    for ours, theirs in zip(again.added, net.added, strict=True):
        ours.weight.data[:, :8] = theirs.weight.data[:, turned]
    sets = torch.tensor(attribution("shapley", 4, rng()).sets, dtype=torch.float32)
    torch.testing.assert_close(again(obs, chunk[:, turned], sets), net(obs, chunk, sets), atol=1e-5, rtol=0)


@pytest.mark.parametrize("word", get_args(Word))
def test_advantages_are_read_off_the_named_subsets(word):
    found = attribution(word, 4, rng())
    full = (1 << 4) - 1
    code = found.sets @ (1 << np.arange(4))
    values = torch.tensor(code[:, None] ** 2.0)
    got = advantages(found, values.float(), torch.ones(1))[0]
    bit, prefix = [1, 2, 4, 8], [1, 3, 7, 15]
    wanted = {
        "flat": [full**2 - 1] * 4,
        "difference": [full**2 / 4] * 4,
        "prefix": [p**2 - 1 for p in prefix],
        "marginal": [p**2 - (p - b) ** 2 for p, b in zip(prefix, bit, strict=True)],
        "alone": [b**2 for b in bit],
        "last": [full**2 - (full - b) ** 2 for b in bit],
    }
    if word in wanted:
        np.testing.assert_allclose(got, wanted[word])
    else:
        np.testing.assert_allclose(got.sum(), full**2, rtol=1e-6)


def test_the_area_under_the_curve_counts_pairs():
    blame, faulty = np.array([3.0, 1.0, 2.0, 2.0, 0.0]), np.array([1, 0, 1, 0, 0], bool)
    pairs = [(a > b) + 0.5 * (a == b) for a in blame[faulty] for b in blame[~faulty]]
    assert fault_auc(blame, faulty) == pytest.approx(np.mean(pairs))
    assert np.isnan(fault_auc(blame, np.ones(5, bool)))


VALUES, ODDS = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "level", "alpha", "wanted"),
    [
        ("exponential", 0.7, 3.0, float((ODDS * (3.0 * VALUES).exp()).sum().log() / 3.0)),
        ("expectile", 0.7, 8.0, None),
        ("expectile", 0.9, 8.0, None),
        ("quantile", 0.7, 8.0, 0.5),
    ],
)
def test_v_goes_to_what_its_loss_is_least_at(kind, level, alpha, wanted):
    loss, v = ValueLoss(kind, level, alpha), torch.zeros((), dtype=torch.float64, requires_grad=True)
    for step in range(20_000):
        (gradient,) = torch.autograd.grad((ODDS * loss(VALUES - v)).sum(), v)
        v.data -= 0.1 / (1 + step / 50) / (alpha if kind == "exponential" else 1) * gradient
    if wanted is None:  # by bisection of the first-order condition
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            error = VALUES - middle
            slope = float((ODDS * torch.where(error < 0, 1 - level, level) * error).sum())
            low, high = (middle, high) if slope > 0 else (low, middle)
        wanted = low
    assert abs(v.item() - wanted) < 1e-3


def test_weights_of_the_exponential_loss_are_positive_and_alpha_squared_at_zero():
    weight = ValueLoss("exponential", 0.7, 8.0).weight(torch.tensor([-5.0, -0.5, -1e-9, 0.0, 1e-9, 0.1, 0.5, 3.0]))
    assert (weight > 0).all()
    torch.testing.assert_close(weight[2:5], torch.full((3,), 64.0))
    torch.testing.assert_close(weight[1], torch.tensor(8.0 * (1 - np.exp(-4.0)) / 0.5, dtype=torch.float32))
    assert (weight.diff() >= -1e-4).all()

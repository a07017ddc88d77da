"""Rescue World by its rules (those of HALO), against plain references; and the cheapest ways of its expert."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from preceptor.envs.catalog import get_task
from preceptor.envs.rescue.simulator import RescueSimulator
from preceptor.envs.rescue.specs import SPECS, cheapest_ways

EAST, NORTH, WEST, SOUTH = range(4)
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
# The maps once more, as the reference lists them.
TARGETS = {
    2: [(0, 0), (9, 9)],
    3: [(0, 0), (9, 9), (4, 5)],
    6: [(1, 1), (7, 1), (4, 6), (5, 0), (7, 3), (6, 8)],
}
DANGER = [(2, 0), (1, 1), (8, 2), (7, 4), (3, 7), (4, 7), (6, 7)]
OBSTACLES = [
    *[(0, 4), (0, 5), (1, 2), (1, 5), (1, 8), (2, 3), (2, 8), (3, 1), (3, 5), (3, 6), (4, 1), (4, 2), (4, 5)],
    *[(4, 8), (5, 5), (5, 8), (6, 1), (6, 2), (6, 3), (7, 0), (7, 2), (7, 6), (7, 8), (8, 8), (9, 4), (9, 5)],
]


class Reference:
    """One environment in plain Python, which also counts what it has seen happen."""

    def __init__(self, start: tuple[int, int], order: list[int]) -> None:
        self.targets = TARGETS[len(order)]
        self.danger, self.obstacles = (DANGER, OBSTACLES) if len(order) == 6 else ([], [])
        self.at, self.order, self.found, self.age = start, order, [], 0
        self.horizon = 100 * len(order)
        self.seen: Counter[str] = Counter()

    def due(self) -> int:
        return [*self.order, -1][len(self.found)]

    def step(self, action: int) -> tuple[float, bool, bool]:
        if self.due() < 0:
            return 0.0, True, False
        self.age += 1
        dx, dy = STEPS[action]
        aim = (min(max(self.at[0] + dx, 0), 9), min(max(self.at[1] + dy, 0), 9))
        what, reward = ("blocked" if aim in self.obstacles else "edge" if aim == self.at else "free"), -1.0
        if what != "blocked":
            self.at = aim
            if aim == self.targets[self.due()]:
                what, reward = ("found in danger" if aim in self.danger else "found"), 1000.0
                self.found.append(self.due())
            elif aim in self.danger:
                what, reward = "danger", -100.0
            elif aim in self.targets:
                what = "a target that was not due"
        terminated = self.due() < 0
        truncated = not terminated and self.age >= self.horizon
        self.seen[what] += 1
        self.seen["truncated" if truncated else "terminated" if terminated else "goes on"] += 1
        return reward, terminated, truncated

    def state(self) -> list[int]:
        return [self.at[0] * 10 + self.at[1], self.due(), *(int(i not in self.found) for i in range(len(self.targets)))]


def begun(name: str, count: int, first: int = 0) -> RescueSimulator:
    simulator = RescueSimulator(SPECS[name], count)
    simulator.begin(np.arange(count), np.arange(first, first + count))
    return simulator


@pytest.mark.parametrize("name", SPECS)
def test_a_plain_reference_sees_the_same(name: str) -> None:
    """Most walks head for the target that is due, with many mistakes, so that episodes end in both ways."""
    simulator, rng, task = begun(name, 24, first=1_000_000), np.random.default_rng(0), get_task(name)
    states = zip(simulator.cell.tolist(), simulator.order.tolist(), strict=True)
    references = [Reference(divmod(cell, 10), order) for cell, order in states]
    epsilon = np.where(np.arange(24) % 4 == 0, 1.0, 0.4)  # some walk at random and never find everything
    for _ in range(620):
        ours = np.column_stack([simulator.cell, simulator.due, simulator.left])
        np.testing.assert_array_equal(ours, [one.state() for one in references])
        actions = task.expert_actions(simulator.observe(), np.maximum(simulator.due, 0), rng, epsilon)
        theirs = [one.step(int(action)) for one, action in zip(references, actions, strict=True)]
        assert list(zip(*simulator.step(actions)[:3], strict=True)) == theirs
    seen = sum((one.seen for one in references), Counter[str]())
    expected = {"free", "edge", "found", "a target that was not due", "terminated", "truncated", "goes on"}
    assert set(seen) == expected | ({"blocked", "danger", "found in danger"} if "n6" in name else set())


def test_the_last_target_in_the_last_step_is_success() -> None:
    simulator = begun("RescueWorld-n2", 1)
    simulator.cell[0], simulator.left[0, 0] = 98, False
    for _ in range(199):
        simulator.step(np.array([EAST]))
    assert [float(part[0]) for part in simulator.step(np.array([NORTH]))] == [1000.0, True, False, True]


@pytest.mark.parametrize("name", SPECS)
def test_levels_begin_on_every_free_cell_alike(name: str) -> None:
    simulator, count = begun(name, 20_000), len(SPECS[name].targets)
    taken = {x * 10 + y for x, y in TARGETS[count] + (OBSTACLES if count == 6 else [])}
    starts = Counter(simulator.cell.tolist())
    assert set(starts) == set(range(100)) - taken
    expected = 20_000 / len(starts)
    assert max(abs(times - expected) for times in starts.values()) < 5 * expected**0.5
    assert simulator.left.all()


def test_random_orders_are_all_alike_and_do_not_depend_on_the_start() -> None:
    simulator = begun("RescueWorld-n3-random", 24_000)
    for half in (simulator.cell < 50, simulator.cell >= 50):
        orders = Counter(map(tuple, simulator.order[half].tolist()))
        expected = half.sum() / 6
        assert set(orders) == set(permutations(range(3)))
        assert max(abs(times - expected) for times in orders.values()) < 4.5 * expected**0.5
    assert (begun("RescueWorld-n3", 100).order == np.arange(3)).all()
    many = begun("RescueWorld-n6-random", 6_000).order
    assert (np.sort(many, axis=1) == np.arange(6)).all()
    assert np.abs([np.bincount(column, minlength=6) - 1000 for column in many.T]).max() < 5 * 1000**0.5


def test_actions_that_do_not_exist_are_refused() -> None:
    simulator = begun("RescueWorld-n2", 2)
    for actions in ([4, 0], [-1, 0], [0], [[0, 0]], [0.0, 1.0]):
        with pytest.raises(ValueError, match="2 integers in"):
            simulator.step(np.array(actions))
    assert (simulator.age == 0).all()


@pytest.mark.parametrize("name", ["RescueWorld-n2", "RescueWorld-n3", "RescueWorld-n6"])
def test_costs_and_best_actions_obey_bellmans_equation(name: str) -> None:
    """Which has one solution, since every step costs something and there is a way from everywhere."""
    spec, moves = SPECS[name], np.array(STEPS)
    costs, best = cheapest_ways(spec)
    for target, cost, good in zip(spec.targets, costs, best, strict=True):
        assert cost[target] == 0
        assert (np.isfinite(cost) == ~np.isin(np.arange(100), spec.obstacles)).all()
        for cell in np.flatnonzero((cost > 0) & np.isfinite(cost)):
            around = np.array(divmod(cell, 10)) + moves
            inside, to = ((around >= 0) & (around < 10)).all(axis=1), np.clip(around, 0, 9) @ [10, 1]
            entering = np.where(np.isin(to, spec.danger) & (to != target), 100, 1)
            after = np.where(inside, cost[to] + entering, np.inf)
            assert cost[cell] == after.min()
            np.testing.assert_array_equal(good[cell], after == after.min())


def test_ties_are_broken_evenly_and_mistakes_are_uniform() -> None:
    task, rng = get_task("RescueWorld-n2"), np.random.default_rng(0)
    simulator = begun("RescueWorld-n2", 40_000)
    simulator.cell[:] = 44  # both ways to the corner are as short
    obs, target = simulator.observe(), np.ones(40_000, dtype=np.int64)
    for epsilon, expected in ((0.0, [0.5, 0.5, 0, 0]), (0.4, [0.4, 0.4, 0.1, 0.1])):
        shares = np.bincount(task.expert_actions(obs, target, rng, epsilon), minlength=4) / 40_000
        np.testing.assert_allclose(shares, expected, atol=0.01)
    assert set(task.skill(obs, target)) == {0}, "hands are steady"


@pytest.mark.parametrize(
    ("name", "epsilon", "measured", "within"),
    [
        ("RescueWorld-n2", 0.0, 1974.4, 1.5),
        ("RescueWorld-n3", 0.1, 2961.9, 2.0),
        ("RescueWorld-n6", 0.0, 5933.5, 1.5),
        ("RescueWorld-n6", 0.1, 5856.0, 25.0),
    ],
)
def test_the_expert_earns_what_it_earned_for_the_reference(
    name: str, epsilon: float, measured: float, within: float
) -> None:
    """As measured on 100 demonstrations each, whose own standard error the tolerance allows for."""
    task, rng = get_task(name), np.random.default_rng(1)
    env = task.make_vec(400, seed=1)
    obs, info = env.reset()
    total, running = np.zeros(400), np.ones(400, dtype=np.bool_)
    while running.any():
        obs, reward, terminated, truncated, info = env.step(task.expert_actions(obs, info["option"], rng, epsilon))
        total += reward * running
        running &= ~(terminated | truncated)
    assert total.mean() == pytest.approx(measured, abs=within)

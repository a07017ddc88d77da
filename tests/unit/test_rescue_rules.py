"""Rescue World by its rules (those of HALO), each by hand and all against a plain reference."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from envs.rescue.expert import Ways
from envs.rescue.simulator import RescueSimulator
from envs.rescue.specs import SPECS, RescueSpec

EAST, NORTH, WEST, SOUTH = range(4)
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

    def __init__(self, name: str, start: tuple[int, int], order: list[int]) -> None:
        count = int(name.split("-")[1][1:])
        self.targets = TARGETS[count]
        self.danger, self.obstacles = (DANGER, OBSTACLES) if count == 6 else ([], [])
        self.at, self.order, self.found, self.age = start, order, [], 0
        self.horizon = {2: 200, 3: 300, 6: 600}[count]
        self.seen: Counter[str] = Counter()

    def due(self) -> int:
        return self.order[len(self.found)] if len(self.found) < len(self.order) else -1

    def step(self, action: int) -> tuple[float, bool, bool]:
        if self.due() < 0:
            return 0.0, True, False
        self.age += 1
        dx, dy = {EAST: (1, 0), NORTH: (0, 1), WEST: (-1, 0), SOUTH: (0, -1)}[action]
        aim = (min(max(self.at[0] + dx, 0), 9), min(max(self.at[1] + dy, 0), 9))
        if aim in self.obstacles:
            what, reward = "blocked", -1.0
        else:
            what, reward = ("edge", -1.0) if aim == self.at else ("free", -1.0)
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

    def full_state(self) -> list[int]:
        left = [int(i not in self.found) for i in range(len(self.targets))]
        return [*self.at, *[number for cell in self.targets for number in cell], *left, self.due()]


def begun(spec: RescueSpec, count: int, first: int = 0) -> RescueSimulator:
    simulator = RescueSimulator(spec, count)
    simulator.begin(np.arange(count), np.arange(first, first + count))
    return simulator


def full_state(simulator: RescueSimulator) -> NDArray[np.int64]:
    """HALO's unfiltered observation [N, 3n + 3]: agent's and targets' (x, y), which are left, which is due."""
    agent = np.stack(np.divmod(simulator.cell, 10), axis=1)
    targets = np.tile(np.array(simulator.spec.targets).reshape(-1), (len(agent), 1))
    return np.concatenate([agent, targets, simulator.left, simulator.due[:, None]], axis=1, dtype=np.int64)


@pytest.mark.parametrize("name", SPECS)
def test_a_plain_reference_sees_the_same(name: str) -> None:
    """Most walks head for the target that is due, with many mistakes, so that episodes end in both ways."""
    simulator, rng, ways = begun(SPECS[name], 24, first=1_000_000), np.random.default_rng(0), Ways(SPECS[name])
    references = [
        Reference(name, divmod(int(cell), 10), order.tolist())
        for cell, order in zip(simulator.cell, simulator.order, strict=True)
    ]
    lost = np.arange(24) % 4 == 0  # these walk at random and never find everything
    for _ in range(620):
        np.testing.assert_array_equal(full_state(simulator), [one.full_state() for one in references])
        towards = ways.actions(simulator.cell, np.maximum(simulator.due, 0), rng)
        actions = np.where(lost | (rng.random(24) < 0.4), rng.integers(4, size=24), towards)
        for ours, theirs in zip(
            zip(*simulator.step(actions)[:3], strict=True),
            [one.step(int(action)) for one, action in zip(references, actions, strict=True)],
            strict=True,
        ):
            assert ours == theirs
    seen = sum((one.seen for one in references), Counter[str]())
    expected = {"free", "edge", "found", "a target that was not due", "terminated", "truncated", "goes on"}
    assert set(seen) == expected | ({"blocked", "danger", "found in danger"} if "n6" in name else set())


def test_the_last_target_in_the_last_step_is_success() -> None:
    simulator = begun(SPECS["RescueWorld-n2"], 1)
    simulator.cell[0], simulator.left[0, 0] = 98, False
    for _ in range(199):
        simulator.step(np.array([EAST]))
    assert [float(part[0]) for part in simulator.step(np.array([NORTH]))] == [1000.0, True, False, True]


@pytest.mark.parametrize("name", SPECS)
def test_levels_begin_on_every_free_cell_alike(name: str) -> None:
    spec = SPECS[name]
    simulator = begun(spec, 20_000)
    count = len(spec.targets)
    taken = set(TARGETS[count]) | (set(OBSTACLES) if count == 6 else set())
    starts = Counter(divmod(int(cell), 10) for cell in simulator.cell)
    free = {(x, y) for x in range(10) for y in range(10)} - taken
    assert set(starts) == free
    expected = 20_000 / len(free)
    assert max(abs(times - expected) for times in starts.values()) < 5 * expected**0.5
    again = begun(spec, 20_000)
    np.testing.assert_array_equal(again.cell, simulator.cell)
    np.testing.assert_array_equal(again.order, simulator.order)
    assert simulator.left.all()


def test_random_orders_are_all_alike_and_do_not_depend_on_the_start() -> None:
    simulator = begun(SPECS["RescueWorld-n3-random"], 24_000)
    for half in (simulator.cell < 50, simulator.cell >= 50):
        orders = Counter(map(tuple, simulator.order[half].tolist()))
        expected = half.sum() / 6
        assert set(orders) == set(permutations(range(3)))
        assert max(abs(times - expected) for times in orders.values()) < 4.5 * expected**0.5
    assert (begun(SPECS["RescueWorld-n3"], 100).order == np.arange(3)).all()
    many = begun(SPECS["RescueWorld-n6-random"], 6_000).order
    assert (np.sort(many, axis=1) == np.arange(6)).all()
    assert np.abs([np.bincount(column, minlength=6) - 1000 for column in many.T]).max() < 5 * 1000**0.5


@pytest.mark.parametrize("actions", [[4, 0], [-1, 0], [0], [[0, 0]], [0.0, 1.0]])
def test_actions_that_do_not_exist_are_refused(actions: list) -> None:
    simulator = begun(SPECS["RescueWorld-n2"], 2)
    with pytest.raises(ValueError, match="2 integers in"):
        simulator.step(np.array(actions))
    assert (simulator.age == 0).all()

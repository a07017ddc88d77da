"""The scripted expert of Rescue World takes cheapest ways, all of them alike, and earns what its reference earned."""

import heapq

import numpy as np
import pytest

from envs.catalog import get_task
from envs.rescue.expert import Ways
from envs.rescue.specs import SPECS, RescueSpec

STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def dijkstra(spec: RescueSpec, target: tuple[int, int]) -> dict[tuple[int, int], int]:
    """Cost of the cheapest way to a target from every cell that has one; searched from the target backwards."""
    known: dict[tuple[int, int], int] = {}
    queue = [(0, target)]
    while queue:
        cost, (x, y) = heapq.heappop(queue)
        if (x, y) in known:
            continue
        known[x, y] = cost
        entering = 100 if (x, y) in spec.danger and (x, y) != target else 1
        for dx, dy in STEPS:
            before = (x + dx, y + dy)
            if before not in spec.obstacles and all(0 <= along < 10 for along in before):
                heapq.heappush(queue, (cost + entering, before))
    return known


@pytest.mark.parametrize("name", ["RescueWorld-n2", "RescueWorld-n3", "RescueWorld-n6"])
def test_costs_and_best_actions_are_those_of_dijkstra(name: str) -> None:
    spec = SPECS[name]
    tables = Ways(spec)
    for i, target in enumerate(spec.targets):
        cost = dijkstra(spec, target)
        assert set(cost) == {divmod(c, 10) for c in np.flatnonzero(np.isfinite(tables.cost[i])).tolist()}
        for cell, least in cost.items():
            number = cell[0] * 10 + cell[1]
            assert tables.cost[i, number] == least
            after = {}
            for action, (dx, dy) in enumerate(STEPS):
                following = (cell[0] + dx, cell[1] + dy)
                if following in cost:
                    entering = 100 if following in spec.danger and following != target else 1
                    after[action] = cost[following] + entering
            best = {action for action, total in after.items() if total == least}
            assert set(np.flatnonzero(tables.best[i, number])) == (best if cell != target else set(range(4)))


def test_every_start_has_a_way_to_every_target() -> None:
    for spec in SPECS.values():
        assert np.isfinite(Ways(spec).cost[:, spec.starts]).all()


def test_ties_are_broken_evenly_and_mistakes_are_uniform() -> None:
    task, rng = get_task("RescueWorld-n2"), np.random.default_rng(0)
    obs = np.repeat(task.make_single(0).unwrapped.simulator.observe(), 40_000, axis=0)
    obs[:, :20] = 0
    obs[:, [4, 14]] = 1  # (4, 4): both ways to the corner are as short
    target = np.ones(40_000, dtype=np.int64)
    shares = np.bincount(task.expert_actions(obs, target, rng), minlength=4) / 40_000
    np.testing.assert_allclose(shares, [0.5, 0.5, 0, 0], atol=0.01)
    shares = np.bincount(task.expert_actions(obs, target, rng, epsilon=0.4), minlength=4) / 40_000
    np.testing.assert_allclose(shares, [0.4, 0.4, 0.1, 0.1], atol=0.01)
    assert set(task.skill(obs, target)) == {0}, "hands are steady"


def returns(name: str, epsilon: float, episodes: int) -> np.ndarray:
    """Returns of the first episode of so many environments, which tell the options."""
    task, rng = get_task(name), np.random.default_rng(1)
    env = task.make_vec(episodes, seed=1)
    obs, info = env.reset()
    total, running = np.zeros(episodes), np.ones(episodes, dtype=np.bool_)
    while running.any():
        obs, reward, terminated, truncated, info = env.step(task.expert_actions(obs, info["option"], rng, epsilon))
        total += reward * running
        running &= ~(terminated | truncated)
    return total


# As measured for the reference on 100 demonstrations each, whose own standard error the tolerance allows for.
MEASURED = [
    ("RescueWorld-n2", 0.0, 1974.4, 1.5),
    ("RescueWorld-n2", 0.1, 1971.0, 2.0),
    ("RescueWorld-n3", 0.0, 2966.3, 1.5),
    ("RescueWorld-n3", 0.1, 2961.9, 2.0),
    ("RescueWorld-n6", 0.0, 5933.5, 1.5),
    ("RescueWorld-n6", 0.1, 5856.0, 25.0),
]


@pytest.mark.parametrize(("name", "epsilon", "measured", "within"), MEASURED)
def test_the_expert_earns_what_it_earned_for_the_reference(
    name: str, epsilon: float, measured: float, within: float
) -> None:
    assert returns(name, epsilon, 400).mean() == pytest.approx(measured, abs=within)


def test_without_mistakes_a_return_is_the_length_of_the_ways() -> None:
    spec = SPECS["RescueWorld-n6"]
    legs = [dijkstra(spec, target) for target in spec.targets]
    between = sum(leg[here] for leg, here in zip(legs[1:], spec.targets, strict=False))
    task = get_task(spec.name)
    env = task.make_vec(400, seed=1)
    env.reset()
    steps = np.array([legs[0][divmod(int(cell), 10)] + between for cell in env.simulator.cell])
    assert steps.max() < 100, "no way leads through danger"
    np.testing.assert_array_equal(returns(spec.name, 0.0, 400), 6 * 1001 - steps)

"""The batched engine and the MiniGrid classes are one environment: equal step by step in everything that is seen."""

from collections.abc import Callable

import numpy as np
import pytest
from minigrid.core.world_object import Door, Key
from walker import PICKUP, TOGGLE, way_to

from envs.catalog import get_task
from envs.gridworld.levels import SPECS
from envs.gridworld.objects import to_cell
from envs.gridworld.simulator import GridSimulator
from envs.gridworld.single import GridTaskEnv
from envs.vector import BatchedEnv
from tests.scripted import scripted

LOW_BYTE = 127  # type, colour and state of the carried object, without the mission's mark and contents


Player = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # observations [N, ...] -> actions [N]


def play_in_lock_step(name: str, episodes: int, choose: Player, worlds: int = 10) -> dict[str, int]:
    """Play `episodes` on both sides at once; counts of how they ended."""
    rng = np.random.default_rng(7)
    vector = BatchedEnv(GridSimulator(SPECS[name], worlds), seed=3)
    singles = [GridTaskEnv(name) for _ in range(worlds)]
    obs, info = vector.reset(options={"level_seeds": rng.integers(1_000_000, size=worlds)})
    firsts = [
        single.reset(options={"level_seed": int(s)})[0] for single, s in zip(singles, info["level_seed"], strict=True)
    ]
    np.testing.assert_array_equal(obs, [first["image"] for first in firsts])
    counts = {"success": 0, "died": 0, "truncated": 0, "carried": 0}
    played = 0
    while played < episodes:
        actions = choose(obs, rng)
        obs, reward, terminated, truncated, info = vector.step(actions)
        carried = vector.get_state()["carried"]
        for n, single in enumerate(singles):
            there, its_reward, its_end, its_cut, its_info = single.step(int(actions[n]))
            over = its_end or its_cut
            here = info["final_obs"][n] if over else obs[n]
            np.testing.assert_array_equal(here, there["image"])
            assert reward[n] == its_reward
            assert (terminated[n], truncated[n]) == (its_end, its_cut)
            assert info["success"][n] == its_info["success"]
            if not over:
                held = 0 if single.carrying is None else to_cell(single.carrying)
                assert carried[n] & LOW_BYTE == held & LOW_BYTE
                counts["carried"] += held != 0
                continue
            played += 1
            counts["success" if its_info["success"] else "died" if its_end else "truncated"] += 1
            assert info["_final_obs"][n]
            assert info["final_info"]["level_seed"][n] == its_info["level_seed"]
            first, _ = single.reset(options={"level_seed": int(info["level_seed"][n])})
            np.testing.assert_array_equal(obs[n], first["image"])
    return counts


def at_random(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(7, size=len(obs), p=[0.12, 0.12, 0.36, 0.14, 0.08, 0.14, 0.04])


def skilled(name: str, slips: float) -> Player:
    """The scripted teacher with the scripted skills, and chance with probability `slips`."""
    task = get_task(name)

    def choose(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        chance = at_random(obs, rng)
        return np.where(rng.random(len(obs)) < slips, chance, task.skill(obs, scripted(task, obs)))

    return choose


by_task = pytest.mark.parametrize("name", SPECS)


@by_task
def test_random_actions(name: str) -> None:
    counts = play_in_lock_step(name, 10 if name == "TwoDoor" else 25, at_random)
    assert counts["truncated"] > 0


@by_task
def test_semi_skilled_actions(name: str) -> None:
    counts = play_in_lock_step(name, 40 if name == "TwoDoor" else 25, skilled(name, slips=0.15))
    assert counts["success"] > 5
    assert counts["carried"] > 0


def test_the_wrong_key_opens_nothing() -> None:
    """Chance seldom carries the wrong key to the door, so a planner does, on both sides."""
    for seed in range(8):
        vector, single = BatchedEnv(GridSimulator(SPECS["ColoredDoorKey"], 1)), GridTaskEnv("ColoredDoorKey")
        vector.reset(options={"level_seeds": [seed]})
        single.reset(options={"level_seed": seed})
        color = next(thing.color for thing in single.grid.grid if isinstance(thing, Door))
        wrong = lambda thing, color=color: isinstance(thing, Key) and thing.color != color  # noqa: E731
        for wanted, last in ((wrong, PICKUP), (lambda thing: isinstance(thing, Door), TOGGLE)):
            path = way_to(single, wanted)
            assert path is not None or last == TOGGLE  # the right key may stand in the way to the door
            for action in [*path, last] if path is not None else []:
                obs, _, terminated, _, info = vector.step(np.array([action]))
                there, _, its_end, _, _ = single.step(action)
                np.testing.assert_array_equal(obs[0], there["image"])
                assert not any((terminated[0], its_end, info["success"][0]))


@by_task
@pytest.mark.learn
@pytest.mark.timeout(1800)
def test_a_thousand_episodes(name: str) -> None:
    for episodes, player in ((250, at_random), (500, skilled(name, 0.15)), (250, skilled(name, 0.0))):
        play_in_lock_step(name, episodes, player, worlds=25)

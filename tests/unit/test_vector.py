"""The grid engine: partial views, state, copies, actions that do not exist, DynamicDoorKey's door."""

import numpy as np
import pytest

from preceptor.envs.gridworld.cells import DOOR_LOCKED
from preceptor.envs.gridworld.levels import SPECS
from preceptor.envs.gridworld.simulator import GridSimulator
from preceptor.envs.vector import BatchedEnv


def grids(spec, count, seed=0, **how):
    return BatchedEnv(GridSimulator(spec, count, **how), seed=seed)


def actions_of(seed: int, steps: int, num_envs: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(7, p=[0.15, 0.15, 0.4, 0.1, 0.05, 0.1, 0.05], size=(steps, num_envs))


@pytest.mark.parametrize("name", ["DynamicDoorKey", "KeyInBox", "TwoDoor"])
def test_the_painted_view_follows_every_change(name: str) -> None:
    """Against a second environment whose state is restored, and so painted anew, before each step."""
    env, anew = (grids(SPECS[name], 16, s, view="partial") for s in (3, 4))
    env.reset()
    for a in actions_of(8, 250, 16):
        anew.set_state(env.get_state())
        for image, its_image in zip(*(e.step(a)[0].values() for e in (env, anew)), strict=True):
            np.testing.assert_array_equal(image, its_image)


def test_copy_says_who_owns_the_observation() -> None:
    for copy in (True, False):
        env = grids(SPECS["LavaDoorKey"], 2, copy=copy)
        first = env.reset(seed=0)[0]
        kept = first.copy()
        for a in actions_of(3, 20, 2):
            env.step(a)
        assert (first == kept).all() == copy


def test_actions_that_do_not_exist_are_refused() -> None:
    env = grids(SPECS["LavaDoorKey"], 2)
    env.reset()
    for wrong in ([0, 7], [-1, 0], [0, 0, 0]):
        with pytest.raises(ValueError, match="actions must be 2 integers"):
            env.step(np.array(wrong))


def test_the_door_moves_three_steps_after_the_key_is_picked_up() -> None:
    """Both wall cells are forgotten; where the door now is shows when it is seen again."""
    moved, waited = 0, 0
    env = grids(SPECS["DynamicDoorKey"], 64, 2)
    env.reset()
    for actions in actions_of(5, 400, 64):
        doors = env.get_state()["cells"] & 15 == DOOR_LOCKED
        obs, _, terminated, truncated, _ = env.step(actions)
        state = env.get_state()
        now = state["cells"] & 15 == DOOR_LOCKED
        since = np.where(state["picked_at"] >= 0, state["clock"] - state["picked_at"], -1)
        for n in np.flatnonzero(~(terminated | truncated)):
            assert (doors[n] != now[n]).any() == (since[n] == 3)
            if since[n] == 3:
                assert np.isin(obs[n][now[n]][:, 0], (0, 4)).all()
                assert np.isin(obs[n][doors[n]][:, 0], (0, 2)).all()
        moved, waited = moved + (since == 3).sum(), max(waited, since.max())
    assert moved > 20
    assert waited > 3

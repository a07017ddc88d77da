"""Stock levels and a user's own as tasks: what is read off their levels, seeds, and what is refused."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest

from envs.catalog import get_task
from envs.gridworld.scenes import Facts
from envs.gridworld.stock_tasks import POOL_LEVELS
from ground.errors import UserError
from tests.scripted import scripted

USERS_FILE = """
import gymnasium
from minigrid.core.world_object import Ball, Door, Goal, Key
from minigrid.envs import EmptyEnv


class TwoKeysEnv(EmptyEnv):
    def _gen_grid(self, width, height):
        super()._gen_grid(width, height)
        self.grid.vert_wall(width // 2, 1, height - 2)
        self.put_obj(Door("blue", is_locked=True), width // 2, 2)
        for colour in ("blue", "red"):
            self.place_obj(Key(colour), top=(1, 1), size=(width // 2 - 2, height - 2))


class BallsEnv(EmptyEnv):
    preceptor_win = 2

    def _gen_grid(self, width, height):
        super()._gen_grid(width, height)
        self.obj = Ball("red")
        self.place_obj(self.obj)
        self.place_obj(Ball("blue"))


gymnasium.register("Users/TwoKeys-v0", entry_point=TwoKeysEnv, kwargs={"size": 9})
gymnasium.register("Users/Balls-v0", entry_point=BallsEnv)
"""


def scripted_success(name: str, count: int = 50) -> float:
    """Share of held-out levels on which the expert, asked at every step, succeeds."""
    task = get_task(name)
    env = task.make_vec(count, split="eval")
    obs, _ = env.reset(options={"level_seeds": np.arange(1_000_000, 1_000_000 + count)})
    won, alive = np.zeros(count, np.bool_), np.ones(count, np.bool_)
    while alive.any():
        obs, _, terminated, truncated, info = env.step(task.skill(obs, scripted(task, obs)))
        won |= alive & info["success"]
        alive &= ~(terminated | truncated)
    return float(won.mean())


@pytest.fixture(scope="module")
def users_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("user")
    (folder / "users_levels.py").write_text(USERS_FILE)
    sys.path.insert(0, str(folder))
    yield "users_levels"
    sys.path.remove(str(folder))


def test_a_users_level_becomes_a_task_by_its_id(users_module: str) -> None:
    task = get_task(f"{users_module}:Users/TwoKeys-v0")
    assert task.name == "Users-TwoKeys-v0", "a name is a folder too"
    assert task.options.ids[1:5] == ("goto:red key", "goto:blue key", "goto:door", "goto:goal")
    assert scripted_success(f"{users_module}:Users/TwoKeys-v0") >= 0.98


def test_any_minigrid_id_is_a_task() -> None:
    assert get_task("MiniGrid-LavaGapS7-v0").options.ids[:2] == ("explore", "goto:goal")
    assert scripted_success("MiniGrid-LockedRoom-v0", 20) == 1.0


def test_what_cannot_be_played_is_refused_by_name(users_module: str) -> None:
    for name, why in (
        ("DoorKy-8x8", "Did you mean 'DoorKey-8x8'"),
        ("SimpelDoorKey", "Did you mean 'SimpleDoorKey'"),
        ("MiniGrid-Playground-v0", "no goal to reach"),
        ("MiniGrid-MemoryS7-v0", "rules of its own"),
        ("CartPole-v1", "not a MiniGrid environment"),
        ("no_such_module:Level-v0", "cannot be imported"),
        (f"{users_module}:Users/Bals-v0", "Unknown stock level"),
        (f"{users_module}:Users/Balls-v0", "more than one ball"),
    ):
        with pytest.raises(UserError, match=why):
            get_task(name)
    with pytest.raises(UserError, match="has no flaw"):
        get_task("DoorKey-5x5", "lava")


def test_options_and_texts_are_read_off_the_levels() -> None:
    """Ids and texts are part of labels and checkpoints."""
    assert get_task("DoorKey-5x5").options.ids == get_task("DoorKey-8x8").options.ids
    corridor, lava = get_task("KeyCorridorS4R3"), get_task("LavaCrossingS9N1")
    doors = ("goto:closed door", "goto:locked door")
    assert corridor.options.ids == ("explore", "goto:key", *doors, "goto:ball", "pickup", "drop", "toggle")
    scene = corridor.scene(Facts(status=(0, 1, 2, 0), front=2))
    assert scene.text.startswith("No key has been seen. The closed door can be reached. The locked door has been seen")
    assert corridor.goal.startswith("Find the ball and pick it up")
    assert "lava" in lava.rules
    assert "lava" not in corridor.rules


def test_the_box_that_is_wanted_is_never_opened() -> None:
    task = get_task("UnlockPickup")
    number = task.schema.things.index("box") + 1
    scene = task.scene(Facts(status=(0, 0, 1), front=number))
    assert task.options.ids.index("toggle") not in scene.legal


@pytest.mark.parametrize("name", ["BlockedUnlockPickup", "LavaCrossingS9N1"])
def test_the_single_environment_is_in_lock_step(name: str) -> None:
    task, level = get_task(name), 1_000_007
    env, single = task.make_vec(1, split="eval"), task.make_single(level)
    obs, _ = env.reset(options={"level_seeds": np.array([level])})
    terminated = [False]
    while not terminated[0]:
        action = task.skill(obs, scripted(task, obs))
        assert tuple(np.argwhere(obs[0, ..., 3] < 4)[0]) == tuple(single.unwrapped.agent_pos)
        obs, reward, terminated, truncated, _ = env.step(action)
        assert single.step(int(action[0]))[1:4] == (reward[0], terminated[0], truncated[0])
        assert not truncated[0]
    assert reward[0] > 0


def test_pools_have_an_end_and_never_cross() -> None:
    task = get_task("DoorKey-5x5")
    env = task.make_vec(500, split="eval")
    _, info = env.reset(options={"level_seeds": np.arange(1_000_000, 1_000_500)})
    assert info["level_seed"][-1] == 1_000_499
    for seed in (0, 1_000_000 + POOL_LEVELS["eval"]):
        with pytest.raises(UserError, match=f"Level seed {seed} is not of the eval split.*\n.* 1000000 to 1000999"):
            env.reset(options={"level_seeds": np.full(500, seed)})
    with pytest.raises(UserError, match="split"):
        task.make_vec(1, split="test")

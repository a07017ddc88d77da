"""Stock levels and a user's own: equal to MiniGrid step by step, read as tasks, and refused where they do not fit."""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import preceptor
from dev import minigrid_ids
from preceptor.agent.acting import Agent
from preceptor.agent.players import random_player
from preceptor.envs.catalog import STOCK_TASKS, get_task
from preceptor.envs.gridworld.levels import SPECS
from preceptor.envs.gridworld.scenes import Facts
from preceptor.envs.gridworld.simulator import GridSimulator
from preceptor.envs.gridworld.single import GridTaskEnv
from preceptor.envs.gridworld.stock_tasks import POOL_LEVELS, ItselfTask, StockTask, make_pool, make_task
from preceptor.envs.vector import BatchedEnv
from preceptor.ground.errors import UserError
from tests.scripted import scripted

USERS_FILE = """
from types import SimpleNamespace

import gymnasium
from minigrid.core.world_object import Ball, Door, Goal, Key
from minigrid.envs import DoorKeyEnv, EmptyEnv


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


class GreedyEnv(DoorKeyEnv):
    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated or isinstance(self.carrying, Key), truncated, info


class GenerousEnv(EmptyEnv):
    def _reward(self):
        return 5.0


class HastyEnv(EmptyEnv):
    def _gen_grid(self, width, height):
        super()._gen_grid(width, height)
        self.max_steps = int(self.np_random.integers(5, 9))


class GrowingEnv(EmptyEnv):
    def _gen_grid(self, width, height):
        self.width = self.height = int(self.np_random.integers(5, 9))
        super()._gen_grid(self.width, self.height)


class BackwardEnv(EmptyEnv):
    @property
    def front_pos(self):
        return self.agent_pos - self.dir_vec


class LadenEnv(EmptyEnv):
    def reset(self, **how):
        told = super().reset(**how)
        self.carrying = Key("red")
        return told


class LateEnv(EmptyEnv):
    def reset(self, **how):
        told = super().reset(**how)
        self.step_count = 50
        return told


class MirroredEnv(EmptyEnv):
    def __init__(self, **how):
        super().__init__(**how)
        self.actions = SimpleNamespace(left=1, right=0, forward=2, pickup=3, drop=4, toggle=5, done=6)


class SolidEnv(EmptyEnv):
    def _gen_grid(self, width, height):
        super()._gen_grid(width, height)
        self.grid.get(width - 2, height - 2).can_overlap = lambda: False


class SometimesOpaqueEnv(EmptyEnv):
    def _gen_grid(self, width, height):
        super()._gen_grid(width, height)
        self.see_through_walls = bool(self.np_random.integers(2))


class CrampedEnv(EmptyEnv):
    def _gen_grid(self, width, height):
        super()._gen_grid(width, height)
        if self.np_random.integers(10) == 0:
            raise ValueError("no room for the key")


class OpenEnv(EmptyEnv):
    def _gen_grid(self, width, height):
        super()._gen_grid(width, height)
        self.grid.set(0, 2, None)


gymnasium.register("Users/TwoKeys-v0", entry_point=TwoKeysEnv, kwargs={"size": 9})
gymnasium.register("Users/Balls-v0", entry_point=BallsEnv)
gymnasium.register("Users/Greedy-v0", entry_point=GreedyEnv)
gymnasium.register("Users/Open-v0", entry_point=OpenEnv)
gymnasium.register("Users/Generous-v0", entry_point=GenerousEnv, kwargs={"size": 5})
gymnasium.register("Users/Hasty-v0", entry_point=HastyEnv, kwargs={"size": 5})
gymnasium.register("Users/Growing-v0", entry_point=GrowingEnv, kwargs={"size": 5})
for kind in (BackwardEnv, LadenEnv, LateEnv, MirroredEnv, SolidEnv, SometimesOpaqueEnv, CrampedEnv):
    gymnasium.register(f"Users/{kind.__name__}-v0", entry_point=kind, kwargs={"size": 6})
gymnasium.register("Users/Cut-v0", entry_point=EmptyEnv, kwargs={"size": 5}, max_episode_steps=12)
gymnasium.register("Users/Wide-v0", entry_point=EmptyEnv, kwargs={"size": 8, "agent_view_size": 9})
gymnasium.register("Users/Narrow3-v0", entry_point=DoorKeyEnv, kwargs={"size": 6, "agent_view_size": 3})
gymnasium.register("Users/Narrow5-v0", entry_point=DoorKeyEnv, kwargs={"size": 6, "agent_view_size": 5})
"""


@pytest.fixture(scope="module", autouse=True)
def users_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("user")
    (folder / "users_levels.py").write_text(USERS_FILE)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def assert_same(obs: dict[str, np.ndarray], n: int, its_obs: dict[str, object]) -> None:
    np.testing.assert_array_equal(obs["image"][n], its_obs["image"])
    assert obs["direction"][n] == its_obs["direction"]


def ends_in_lock_step(name: str, skill: float, steps: int, count: int = 4) -> Counter:
    """How episodes ended that maps, partial views and MiniGrid played alike, `skill` of the steps by the expert."""
    task, rng, ends = StockTask(name), np.random.default_rng(1), Counter()
    maps = task.make_vec(count, split="eval")
    views = BatchedEnv(GridSimulator(maps.simulator.level_spec, count, view="partial"), "eval")
    (seen, _), (obs, info) = maps.reset(), views.reset()
    stock = [task.make_single(int(level)) for level in info["level_seed"]]
    for _ in range(steps):
        actions = np.where(
            rng.random(count) < skill, task.skill(seen, scripted(task, seen)), rng.integers(7, size=count)
        )
        seen, *outcome, _ = maps.step(actions)
        obs, reward, terminated, truncated, info = views.step(actions)
        np.testing.assert_array_equal(outcome, [reward, terminated, truncated])
        for n, env in enumerate(stock):
            its_map, its_reward, its_end, its_cut, told = env.step(int(actions[n]))
            over, view = its_end or its_cut, env.unwrapped.gen_obs()
            assert_same(info["final_obs"] if over else obs, n, view)
            assert (reward[n], terminated[n], truncated[n]) == (its_reward, its_end, its_cut)
            assert info["success"][n] == told["success"] == (its_reward > 0)
            if over:
                ends["success" if its_reward > 0 else "died" if its_end else "truncated"] += 1
                its_map, _ = env.reset(options={"level_seed": int(info["level_seed"][n])})
                assert_same(obs, n, env.unwrapped.gen_obs())
            np.testing.assert_array_equal(seen[n], its_map)
    return ends


SAMPLED = (
    *("MiniGrid-Empty-Random-5x5-v0", "MiniGrid-LavaGapS5-v0", "MiniGrid-Unlock-v0", "MiniGrid-KeyCorridorS3R1-v0"),
    *("MiniGrid-Fetch-5x5-N2-v0", "MiniGrid-GoToDoor-5x5-v0", "MiniGrid-PutNear-6x6-N2-v0", "MiniGrid-MemoryS7-v0"),
    *("MiniGrid-Dynamic-Obstacles-5x5-v0", "MiniGrid-Playground-v0", "BabyAI-GoToRedBall-v0", "BabyAI-OpenDoor-v0"),
)
OTHERS = (
    "MiniGrid-DistShift1-v0",
    "MiniGrid-ObstructedMaze-1Dlh-v0",
    "MiniGrid-Unlock-v0",
    "users_levels:Users/TwoKeys-v0",
)
NARROW = ("users_levels:Users/Narrow3-v0", "users_levels:Users/Narrow5-v0")
PLAYED = [
    *((name, 0.9, 150, "success") for name in (*STOCK_TASKS, *OTHERS, *NARROW)),
    ("LavaCrossingS9N1", 0.0, 700, "died"),
    ("DoorKey-5x5", 0.0, 260, "truncated"),
    *(pytest.param(n, s, 1500, "", marks=pytest.mark.learn) for n in STOCK_TASKS for s in (0.0, 0.6, 0.95)),
]


@pytest.mark.parametrize(("name", "skill", "steps", "expected"), PLAYED)
def test_equal_to_stock(name: str, skill: float, steps: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MiniGrid's own environments see, reward and end what the engine does, whatever it shows."""
    for split in POOL_LEVELS:
        monkeypatch.setitem(POOL_LEVELS, split, 40)
    ends = ends_in_lock_step(name, skill, steps)
    assert not expected or ends[expected]


@pytest.mark.parametrize(
    ("name", "count"), [("users_levels:Users/TwoKeys-v0", 50), ("MiniGrid-LockedRoom-v0", 20), ("DoorKey-5x5", 50)]
)
def test_any_minigrid_id_is_a_task_that_the_expert_solves(name: str, count: int) -> None:
    task = get_task(name)
    env = task.make_vec(count, split="eval")
    obs, _ = env.reset(options={"level_seeds": np.arange(1_000_000, 1_000_000 + count)})
    won, alive = np.zeros(count, np.bool_), np.ones(count, np.bool_)
    while alive.any():
        obs, _, terminated, truncated, info = env.step(task.skill(obs, scripted(task, obs)))
        won |= alive & info["success"]
        alive &= ~(terminated | truncated)
    assert won.mean() >= 0.98


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("DoorKy-8x8", "Did you mean 'DoorKey-8x8'"),
        ("SimpelDoorKey", "Did you mean 'SimpleDoorKey'"),
        ("no_such_module:Level-v0", r"no module 'no_such_module'[\s\S]*next: python main.py tasks"),
        ("users_levels:Users/Bals-v0", "Did you mean 'Users/Balls-v0'"),
        ("MiniGrid-WFC-MazeSimple-v0", "cannot begin an episode"),
        (
            "users_levels:Users/CrampedEnv-v0",
            r"CrampedEnv.reset\(\) at level seed \d+ raises ValueError: no room for the key",
        ),
    ],
)
def test_what_cannot_be_played_is_refused_by_name(name: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        get_task(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("MiniGrid-Playground-v0", "no goal to reach"),
        ("MiniGrid-MemoryS7-v0", r"rules of its own in step\(\)"),
        ("MiniGrid-Dynamic-Obstacles-5x5-v0", r"rules of its own in step\(\)"),
        ("BabyAI-GoToRedBall-v0", "missions in words"),
        ("users_levels:Users/Balls-v0", "more than one ball"),
        ("users_levels:Users/Greedy-v0", "GreedyEnv has rules of its own"),
        ("users_levels:Users/Open-v0", "enclosed"),
        ("users_levels:Users/Generous-v0", r"rules of its own in _reward\(\)"),
        ("users_levels:Users/Hasty-v0", "number of steps differs"),
        ("users_levels:Users/Growing-v0", "size or view differs"),
        ("users_levels:Users/SometimesOpaqueEnv-v0", "size or view differs"),
        *(
            (f"users_levels:Users/{kind}Env-v0", f"{kind}Env plays otherwise than the engine, in step")
            for kind in ("Backward", "Laden", "Late", "Mirrored", "Solid")
        ),
        ("users_levels:Users/Cut-v0", "max_episode_steps, fewer than its own 100"),
    ],
)
def test_what_the_engine_does_not_play_runs_as_itself(
    name: str, why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step by step what `gymnasium.make` gives, seen as a map of the view; and it says so."""
    for split in POOL_LEVELS:
        monkeypatch.setitem(POOL_LEVELS, split, 20)
    task, rng, ended = make_task(name), np.random.default_rng(0), 0
    assert isinstance(task, ItselfTask)
    assert re.search(why, task.notice)
    batched = task.make_vec(2, seed=3)
    obs, info = batched.reset()
    assert not capsys.readouterr().out
    single = gymnasium.make(name)
    its_obs, _ = single.reset(seed=int(info["level_seed"][1]))
    for _ in range(120):
        np.testing.assert_array_equal(obs[1], task.from_gymnasium(its_obs))
        assert (obs[1, ..., :3] == its_obs["image"]).all()
        actions = rng.integers(task.num_actions, size=2)
        obs, reward, terminated, truncated, info = batched.step(actions)
        its_obs, *outcome, _ = single.step(actions[1])
        assert outcome == [reward[1], terminated[1], truncated[1]]
        assert info["success"][1] == (terminated[1] and reward[1] > 0)
        if terminated[1] or truncated[1]:
            ended += 1
            its_obs, _ = single.reset(seed=int(info["level_seed"][1]))
    assert ended or single.unwrapped.max_steps > 60


def test_agents_take_what_gymnasium_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of levels that run as themselves MiniGrid's own observations, of the others the map, which `SeenMap` draws."""
    short = {"steps": 128, "num_envs": 4, "eval_episodes": 2, "logdir": str(tmp_path), "savedir": "short"}
    run = preceptor.train("MiniGrid-MemoryS7-v0", "ppo", **short, quiet=False)
    assert "runs as itself" in capsys.readouterr().err
    env, agent = gymnasium.make("MiniGrid-MemoryS7-v0"), run.load()
    obs, _ = env.reset(seed=0)
    assert env.action_space.contains(agent.act(obs))
    made = preceptor.make("MiniGrid-MemoryS7-v0")
    assert made.action_space.contains(agent.act(made.reset(seed=0)[0]))
    agent = Agent(get_task("DoorKey-5x5"), random_player())
    stock = gymnasium.make("MiniGrid-DoorKey-5x5-v0")
    with pytest.raises(UserError, match=r"view of the moment[\s\S]*next: env = preceptor.SeenMap\(env\)"):
        agent.act(stock.reset(seed=0)[0])
    for wrong in ("text", {"picture": 1}, np.zeros((5, 5)), None):
        with pytest.raises(UserError, match=r"shape \(5, 5, 4\)"):
            agent.act(wrong)
    for seen in (preceptor.SeenMap(stock).reset(seed=0)[0], preceptor.make("DoorKey-5x5").reset(seed=0)[0]):
        assert agent.act(seen) in range(7)
    with pytest.raises(UserError, match="not a MiniGrid environment"):
        preceptor.SeenMap(gymnasium.make("CartPole-v1"))


def test_ids_of_each_kind_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dozen of those in docs/minigrid.md, which is to say of them what is true."""
    monkeypatch.setattr(minigrid_ids, "STEPS", 256)
    for split in POOL_LEVELS:
        monkeypatch.setitem(POOL_LEVELS, split, 20)
    page = minigrid_ids.PAGE.read_text()
    for name in SAMPLED:
        found = minigrid_ids.tried(name, str(tmp_path))
        assert found.trains, found.words
        assert f"| `{name}` | yes | {found.words.split(':')[0]}" in page
    assert page.count("| yes |") >= 170
    assert len(re.findall(r"^\| `", page, re.MULTILINE)) == len(minigrid_ids.ids())


def test_what_does_not_fit_a_simulator_is_refused() -> None:
    with pytest.raises(UserError, match="has no flaw"):
        get_task("DoorKey-5x5", "lava")
    with pytest.raises(UserError, match="partial views have at most 7"):
        GridSimulator(make_pool("users_levels:Users/Wide-v0", 1), 1, view="partial")
    with pytest.raises(UserError, match="no levels of the eval split"):
        BatchedEnv(GridSimulator(make_pool("DoorKey-5x5", 2), 2), "eval")


def test_options_and_texts_are_read_off_the_levels() -> None:
    """Ids and texts are part of labels and checkpoints."""
    assert get_task("DoorKey-5x5").options.ids == get_task("DoorKey-8x8").options.ids
    assert get_task("MiniGrid-LavaGapS7-v0").options.ids[:2] == ("explore", "goto:goal")
    corridor, lava = get_task("KeyCorridorS4R3"), get_task("LavaCrossingS9N1")
    doors = ("goto:closed door", "goto:locked door")
    assert corridor.options.ids == ("explore", "goto:key", *doors, "goto:ball", "pickup", "drop", "toggle")
    scene = corridor.scene(Facts(status=(0, 1, 2, 0), front=2))
    assert scene.text.startswith("No key has been seen. The closed door can be reached. The locked door has been seen")
    assert corridor.goal.startswith("Find the ball and pick it up")
    assert "lava" in lava.rules
    assert "lava" not in corridor.rules
    users = get_task("users_levels:Users/TwoKeys-v0")
    assert users.name == "Users-TwoKeys-v0", "a name is a folder too"
    assert users.options.ids[1:5] == ("goto:red key", "goto:blue key", "goto:door", "goto:goal")


def test_the_box_that_is_wanted_is_never_opened() -> None:
    task = get_task("UnlockPickup")
    number = task.schema.things.index("box") + 1
    scene = task.scene(Facts(status=(0, 0, 1), front=number))
    assert task.options.ids.index("toggle") not in scene.legal


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


def test_the_wrong_key_opens_nothing() -> None:
    """Chance seldom carries the wrong key to the door, so the skills do, in the engine and in MiniGrid."""
    task, tried = get_task("ColoredDoorKey"), 0
    option = {name: np.array([k]) for k, name in enumerate(task.options.ids)}
    for seed in range(8):
        vector, single = BatchedEnv(GridSimulator(SPECS[task.name], 1)), GridTaskEnv(task.name)
        obs, _ = vector.reset(options={"level_seeds": [seed]})
        single.reset(options={"level_seed": seed})
        for _ in range(60):
            (facts,) = [task.schema.from_strings(scene.facts) for scene in task.describe(obs)]
            keys = [t for t in range(6) if facts.status[t] == 1 and facts.door_colour not in (0, t + 1)]
            aim = "toggle" if facts.held and facts.front == 7 else "goto:door" if facts.held else "explore"
            if keys and not facts.held:
                aim = "pickup" if facts.front == keys[0] + 1 else f"goto:{task.schema.things[keys[0]]}"
            tried += aim == "toggle"
            action = task.skill(obs, option[aim])
            obs, _, terminated, _, info = vector.step(action)
            there, _, its_end, _, _ = single.step(int(action[0]))
            np.testing.assert_array_equal(obs[0], there["image"])
            assert not any((terminated[0], its_end, info["success"][0]))
    assert tried > 20

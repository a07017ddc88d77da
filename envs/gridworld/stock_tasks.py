"""Stock MiniGrid levels, and a user's own, as tasks: options, scenes, skills and an expert by one general mechanism.

What a task speaks of is read off its levels: the things that occur in them, whether the colours of keys matter, whether
there is lava, and what ends an episode. So a new stock level is a name in the catalogue, and a user's level needs none.
With `my_levels.py` beside `main.py`,

    class TwoKeysEnv(MiniGridEnv): ...                      # as minigrid's documentation has it: `_gen_grid`
    gymnasium.register("TwoKeys-v0", entry_point=TwoKeysEnv)

this trains on it, and `get_task("my_levels:TwoKeys-v0")` is the task:

    python main.py train --task my_levels:TwoKeys-v0 --teacher scripted

MiniGrid's own generator makes pools of levels once, which the engine then plays; level seed s of a pool is
`env.reset(seed=s)` of the environment that it was made from. `win_of` says which rules the engine knows. All other
levels run as themselves (`ItselfTask`): slowly, from the agent's own view, and without a teacher.

Teachers are `scripted`, or `llm` with a capable model: the built-in tiny model was trained on the seven tasks alone,
and answers here without having learnt what a goal is.
"""

from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any, Final, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import OrderEnforcing, TimeLimit
from minigrid.core.roomgrid import RoomGrid
from minigrid.envs import BlockedUnlockPickupEnv, KeyCorridorEnv, ObstructedMazeEnv, UnlockEnv, UnlockPickupEnv
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
from minigrid.minigrid_env import MiniGridEnv
from numpy.typing import NDArray

from preceptor.envs.gridworld.cells import (
    BALL,
    BOX,
    COLOR_SHIFT,
    CONTENTS_SHIFT,
    DOOR_CLOSED,
    DOOR_LOCKED,
    GOAL_KIND,
    KEY,
    KIND_MASK,
    LAVA,
    NUM_COLORS,
    TARGET,
)
from preceptor.envs.gridworld.engine import NUM_ACTIONS
from preceptor.envs.gridworld.levels import POOL, WIN_DOOR, WIN_GOAL, WIN_MISSION, WIN_TARGET, LevelSpec, Pool
from preceptor.envs.gridworld.scenes import COLOURS, Schema
from preceptor.envs.gridworld.simulator import GridSimulator
from preceptor.envs.gridworld.single import OwnView, Rewarded, SeenMap, to_cells, view_as_map
from preceptor.envs.gridworld.tasks import GridTask, TaskText
from preceptor.envs.gym_tasks import GymTask, LevelSeeds, gymnasium_env
from preceptor.envs.task import Task
from preceptor.envs.users_code import UsersFault, excused
from preceptor.envs.vector import BatchedEnv
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import split_range

# Levels per split: seeds 0 to 1,999 for training, 1,000,000 to 1,000,999 held out. About a millisecond each to make.
POOL_LEVELS: Final = {"train": 2_000, "eval": 1_000}
_CHECKED, _CHECKED_STEPS = 4, 400  # levels, and steps of each, that the engine and MiniGrid's own code both play
_SLIPS: Final = np.array([1.0, 0.5, 0.2, 0.1])  # shares of steps by chance in each
_MAX_CODES = 2**24  # of a schema: the table from code to scene holds four bytes for each
Played = TypeVar("Played", bound=Task)
_KIND_NAMES = {KEY: "key", BALL: "ball", BOX: "box"}
# Environments whose `step` is MiniGrid's, plus one condition that the engine has too. The engine plays no others, whose
# rules would be lost silently.
_WINS: Final = (
    ((UnlockPickupEnv, BlockedUnlockPickupEnv, KeyCorridorEnv, ObstructedMazeEnv), WIN_TARGET),
    ((UnlockEnv,), WIN_DOOR),
    ((RoomGridLevel,), WIN_MISSION),
)


def win_of(env: MiniGridEnv) -> int:
    """What ends an episode of a MiniGrid environment in success, as in `LevelSpec.win`.

    A class of a user's own whose `step` adds nothing but one of those conditions says so in an attribute
    `preceptor_win` with the value `WIN_DOOR` or `WIN_TARGET` (the object is then the attribute `obj`).

    Raises:
        UserError: Its rules are neither MiniGrid's nor others that the engine knows.
    """
    kind = type(env)
    for name in ("_reward", "gen_obs", "gen_obs_grid", "get_view_exts"):
        if getattr(kind, name) is not getattr(MiniGridEnv, name):
            raise UserError(f"{kind.__name__} has rules of its own in {name}(), which the engine does not know.")
    declared = getattr(kind, "preceptor_win", None)
    if declared is not None:
        return int(declared)
    for classes, win in _WINS:
        if any(kind.step is known.step for known in classes):
            return win
    if kind.step in (MiniGridEnv.step, RoomGrid.step):
        return WIN_GOAL
    raise UserError(
        f"{kind.__name__} has rules of its own in step(), which the engine does not know.",
        "declare `preceptor_win` (envs/gridworld/stock_tasks.py)",
    )


class Source:
    """A MiniGrid environment as a source of levels, which its own generator makes one by one.

    Args:
        env_id: Any Gymnasium id of a MiniGrid environment, or what is between `MiniGrid-` and `-v0`; with `module:`
            before it, as for `gymnasium.make`, the module that registers it is imported first.

    Attributes:
        env: The environment, which plays the level that was made last.
        win: As `win_of` says.
        rules: Width, height, side of the view, `see_through_walls`; of all levels, once there is one.

    Raises:
        UserError: There is no such environment, or it has rules that the engine does not know.
    """

    def __init__(self, env_id: str) -> None:
        self._env_id, made = env_id, gymnasium_env(full_id(env_id))
        env = made.unwrapped
        if not isinstance(env, MiniGridEnv):
            raise UserError(f"{env_id} is not a MiniGrid environment.")
        self.env, self.win = env, win_of(env)
        if env.action_space != gym.spaces.Discrete(NUM_ACTIONS):
            raise UserError(f"{env_id} has actions {env.action_space}, and the engine {NUM_ACTIONS}.")
        _check_wrappers(made, env)
        self.rules: tuple[int, int, int, bool] | None = None

    def level(self, seed: int) -> tuple[NDArray[np.uint16], tuple[int, int, int]]:
        """The cells [W, H] and the agent's pose of a level.

        Raises:
            UserError: It has objects that the engine does not know, or differs from the others in `rules`.
        """
        env = self.env
        with redirect_stdout(None), excused(f"{type(env).__name__}.reset() at level seed {seed}"):  # as in `OwnView`
            env.reset(seed=seed)
        found = env.grid.width, env.grid.height, env.agent_view_size, bool(env.see_through_walls)
        self.rules = self.rules or found
        if found != self.rules:
            raise UserError(f"{self._env_id}: size or view differs between levels.")
        cells = to_cells(env.grid, getattr(env, "obj", None) if self.win == WIN_TARGET else None)
        return cells, (int(env.agent_pos[0]), int(env.agent_pos[1]), int(env.agent_dir))


def make_pool(env_id: str, count: int, first_seed: int = 0) -> LevelSpec:
    """The rules of an environment, and levels that its own generator made.

    Args:
        env_id: As for `Source`.
        count: Number of levels.
        first_seed: Level seed of the first; from 1,000,000 on they are levels for evaluation.

    Raises:
        UserError: There is no such environment, or it has rules or objects that the engine does not know.
    """
    source = Source(env_id)
    if source.win == WIN_MISSION:
        raise UserError(f"{env_id} has missions in words, of which these scenes cannot speak.")
    cells, pose, limits = [], [], set()
    for seed in range(first_seed, first_seed + count):
        level, start = source.level(seed)
        cells.append(level)
        pose.append(start)
        limits.add(source.env.max_steps)
    if len(limits) != 1 or source.rules is None:
        raise UserError(f"{env_id}: the number of steps differs between levels.")
    width, height, view, see_through = source.rules
    pool = Pool(first_seed, np.array(cells, np.uint16), np.array(pose, np.int64))
    return LevelSpec(env_id, width, height, view, limits.pop(), POOL, source.win, see_through, pool)


def _check_wrappers(made: gym.Env, env: MiniGridEnv) -> None:
    """Refuse what an environment was registered with and the engine would lose. Raises `UserError`."""
    spec, own = made.spec, made
    if spec is not None and spec.max_episode_steps is not None and spec.max_episode_steps < env.max_steps:
        raise UserError(f"{spec.id} was registered with max_episode_steps, fewer than its own {env.max_steps}.")
    while isinstance(own, gym.Wrapper):
        if not isinstance(own, OrderEnforcing | TimeLimit):
            raise UserError(f"{type(env).__name__} comes in the wrapper {type(own).__name__}.")
        own = own.env


def full_id(name: str) -> str:
    """Gymnasium's id of a stock level: `DoorKey-5x5` is `MiniGrid-DoorKey-5x5-v0`, and other ids are as they are."""
    return next((stock for stock in (f"MiniGrid-{name}-v0", f"{name}-v0") if stock in gym.registry), name)


class StockTask(GridTask):
    """A task on pools of levels that MiniGrid's own generator makes when they are first needed, kept in memory.

    Args:
        name: A stock level's short name, or the Gymnasium id of a MiniGrid environment.

    Raises:
        UserError: There is no such environment, or it has rules that the engine or the options cannot express.
    """

    def __init__(self, name: str) -> None:
        self._source, self._levels = name, {"train": _make_levels(name, "train")}
        spec = replace(self._levels["train"], name=name.rpartition(":")[2].replace("/", "-"))
        super().__init__(spec, text_of(self._levels["train"]))

    def make_vec(self, num_envs: int, *, split: str = "train", seed: int = 0, **how: Any) -> gym.vector.VectorEnv:
        """Batched environments on the split's pool, `POOL_LEVELS` levels from the split's first seed on."""
        if split not in self._levels:
            self._levels[split] = _make_levels(self._source, split)
        spec = replace(self.level_spec, pool=self._levels[split].pool)
        return BatchedEnv(GridSimulator(spec, num_envs), split, seed, **how)

    def make_env(self, split: str = "eval", render_mode: str | None = None) -> gym.Env:
        """The stock environment itself, with the map of what has been seen."""
        return LevelSeeds(SeenMap(gymnasium_env(full_id(self._source), render_mode)), split)


class ItselfTask(GymTask):
    """A MiniGrid environment that the engine does not play: MiniGrid's own code, one environment after another.

    Observations are the agent's view of the moment as a map, uint8 [V, V, 4]: it has no memory, and does not read the
    mission.

    Args:
        name: As for `StockTask`.
        why: Why the engine does not play it, in a sentence.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(full_id(name))
        self.why = why
        self.notice = (
            f"{self.name} runs as itself, MiniGrid's own environments one after another, which is slow. {why} "
            "The agent sees what is in front of it, and not the mission's text."
        )

    def made(self, render_mode: str | None = None) -> gym.Env:
        """MiniGrid's environment, whose observations are maps."""
        return OwnView(super().made(render_mode))

    def make_env(self, split: str = "eval", render_mode: str | None = None) -> gym.Env:
        """MiniGrid's environment as it is, on the levels of a split."""
        return LevelSeeds(Rewarded(super().made(render_mode)), split)

    def _fits(self, seen: gym.Space) -> bool:
        return True

    def from_gymnasium(self, obs: Any) -> NDArray[np.uint8]:
        """The maps of MiniGrid's dictionaries, of their images, and of maps."""
        found = np.asarray(obs["image"] if isinstance(obs, Mapping) else obs, np.uint8)
        return view_as_map(found) if found.shape[-1:] == (3,) else found


def played_or_itself(name: str, make: Callable[[], Played]) -> Played | ItselfTask:
    """What `make` makes of a MiniGrid environment, if that plays as the environment does; else the environment itself.

    Raises:
        UserError: There is no such environment, or it cannot begin an episode.
    """
    env = gymnasium_env(full_id(name))
    reset = f"{type(env.unwrapped).__name__}.reset()"
    with redirect_stdout(None), excused(f"{name} cannot begin an episode: {reset}"):  # as in `OwnView`
        env.reset(seed=0)
    env.close()
    try:
        task = make()
        _check_played(task)
        return task
    except UsersFault:
        raise
    except UserError as refused:
        return ItselfTask(name, refused.what)


def make_task(name: str) -> StockTask | ItselfTask:
    """The task of a MiniGrid environment. Raises `UserError` where there is none, or it cannot begin an episode."""
    return played_or_itself(name, lambda: StockTask(name))


def _check_played(task: Task) -> None:
    """Play some levels by the engine and by MiniGrid's own code: by chance, and as the expert would, with slips.

    Raises:
        UserError: They differ, so that the environment has rules of its own, wherever these are.
    """
    env, rng = task.make_vec(_CHECKED), np.random.default_rng(0)
    obs, info = env.reset()
    levels, singles = info["level_seed"], [task.make_env("train") for _ in range(_CHECKED)]
    with redirect_stdout(None):
        begun = [single.reset(options={"level_seed": level})[0] for single, level in zip(singles, levels, strict=True)]
    same, over = [(its == ours).all() for its, ours in zip(begun, obs, strict=True)], np.zeros(_CHECKED, np.bool_)
    kind = type(singles[0].unwrapped).__name__
    for step in range(_CHECKED_STEPS):
        if not all(same):
            raise UserError(
                f"{kind} plays otherwise than the engine, in step {step} of level {levels[same.index(False)]}."
            )
        expert = task.skill(obs, np.array([task.script(scene) for scene in task.describe(obs)]))
        actions = np.where(rng.random(_CHECKED) < _SLIPS, rng.integers(NUM_ACTIONS, size=_CHECKED), expert)
        obs, *outcome, info = env.step(actions)
        for n in np.flatnonzero(~over):
            with excused(f"{kind}.step() in the episode of level seed {levels[n]}"):
                its, *its_outcome, _ = singles[n].step(int(actions[n]))
            same[n] = its_outcome == [part[n] for part in outcome] and (its == info.get("final_obs", obs)[n]).all()
        over |= outcome[1] | outcome[2]
        if over.all():
            return


def _make_levels(name: str, split: str) -> LevelSpec:
    first, _ = split_range(split)  # an unknown split is an error before levels are made
    return make_pool(name, POOL_LEVELS[split], first)


def text_of(made: LevelSpec) -> TaskText:
    """What language models read of a pool's levels, and the things that scenes speak of.

    Raises:
        UserError: The target cannot be told from its twins on a map, or there are too many things to speak of.
    """
    cells = made.pool.cells
    present = {int(kind) for kind in np.unique([cells & KIND_MASK, cells >> CONTENTS_SHIFT & KIND_MASK])}
    things = [f"{colour} key" for colour in _colours_to_tell(cells)] or (["key"] if KEY in present else [])
    both = {DOOR_CLOSED, DOOR_LOCKED} <= present
    things += ["closed door", "locked door"] if both else ["door"] if present & {DOOR_CLOSED, DOOR_LOCKED} else []
    things += [name for kind, name in ((BOX, "box"), (BALL, "ball"), (GOAL_KIND, "goal")) if kind in present]
    target = "" if made.win == WIN_DOOR else _target_of(made) if made.win == WIN_TARGET else "goal"
    text = TaskText(
        _goal(target, locked=DOOR_LOCKED in present),
        _rules(target, present),
        things=tuple(things),
        lava=LAVA in present,
        target=target,
    )
    if target and target not in things:
        raise UserError(f"{made.name}: there is no {target} to {'reach' if target == 'goal' else 'pick up'}.")
    if Schema(text.things, text.lava).size > _MAX_CODES:
        raise UserError(f"{made.name}: scenes cannot speak of so many things: {', '.join(things)}.")
    return text


def _colours_to_tell(cells: NDArray[np.uint16]) -> list[str]:
    """The colours of keys, on the floor or in boxes; none where no level has two, so that it does not matter."""
    here, inside = cells & 127, cells >> CONTENTS_SHIFT & 127
    keys = [KEY | colour << COLOR_SHIFT for colour in range(NUM_COLORS)]
    has = np.array([((here == key) | (inside == key)).any(axis=(1, 2)) for key in keys])  # [colours, levels]
    return [COLOURS[c] for c in np.flatnonzero(has.any(axis=1))] if (has.sum(axis=0) > 1).any() else []


def _target_of(made: LevelSpec) -> str:
    """The kind of the object that missions name. Raises `UserError` if it differs or has twins."""
    cells = made.pool.cells
    kinds = {int(kind) for kind in np.unique(cells[cells & TARGET > 0] & KIND_MASK)}
    if len(kinds) != 1 or not kinds <= _KIND_NAMES.keys():
        raise UserError(f"{made.name}: the missions' objects are not all of one kind, or hidden in a box.")
    kind = kinds.pop()
    if ((cells & KIND_MASK == kind) & (cells & TARGET == 0)).any():
        raise UserError(f"{made.name}: more than one {_KIND_NAMES[kind]}; scenes cannot say which is meant.")
    return _KIND_NAMES[kind]


def _goal(target: str, locked: bool) -> str:
    if not target:
        return "Find the key, then open the locked door with it."
    aim = "Get to the goal" if target == "goal" else f"Find the {target} and pick it up"
    return f"{aim}; a locked door may be in the way, so find its key." if locked else f"{aim}."


def _rules(target: str, present: set[int]) -> str:
    says = {
        "You are in walled rooms and know only what you have seen of them. You carry at most one thing.": True,
        "A closed door opens when you use it.": DOOR_CLOSED in present,
        "A locked door opens when you use it while you hold the key of its colour.": DOOR_LOCKED in present,
        "You can pick up, open or use only what is right in front of you, so go to it first.": True,
        f"Put down what you hold before you pick up the {target}.": target in _KIND_NAMES.values(),
        "Opening a box makes it vanish and leaves what was inside, if anything, in its place.": BOX in present,
        "A thing in the way can be picked up and put down elsewhere.": bool(present & {BALL, BOX, KEY}),
        "Stepping into lava ends everything; your steps avoid lava that has been seen.": LAVA in present,
    }
    return " ".join(sentence for sentence, holds in says.items() if holds)

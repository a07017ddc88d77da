"""Gymnasium's environments of continuous control as tasks: any id whose observations are a vector, and actions a box.

    python main.py train --method sac --task HalfCheetah-v5
    python main.py eval --method sac --task HalfCheetah-v5 --seeds 1000000:1000020

There is nothing to plan in them, so the vocabulary is one option, and methods that ask a teacher have nothing to learn
from it. An episode is a function of its level seed, which Gymnasium's own `reset(seed=...)` takes, and of its actions.
So these two are the whole state of a world: an exact resume plays the running episode again from its start. That holds
for every environment whose randomness comes from its `np_random`, and needs no knowledge of its insides.
"""

import importlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeGuard

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import RescaleAction
from numpy.typing import NDArray

from envs.batches import wanted_levels
from envs.task import GoalSpace, Option, OptionSpace, Scene
from ground.errors import UserError
from ground.level_seeds import drawn_seed, split_range

Obs = NDArray[np.float32]
# Those that Gymnasium brings along here; other ids do as well, these are for suggestions.
GYM_TASKS: Final = (
    *(f"{name}-v5" for name in ("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedPendulum")),
    *(f"{name}-v5" for name in ("InvertedDoublePendulum", "Pusher", "Reacher", "Swimmer", "Walker2d")),
    "MountainCarContinuous-v0",
    "Pendulum-v1",
)
_SUCCESS = ("is_success", "success")  # what environments that know of success call it in their infos


def make_single(env_id: str, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """One environment as Gymnasium makes it. Raises `UserError` if it cannot."""
    try:
        return gym.make(env_id, render_mode=render_mode, disable_env_checker=True)
    except (gym.error.Error, ImportError) as error:
        raise UserError(f"Gymnasium cannot make {env_id}: {error}", f"--task {GYM_TASKS[1]}") from error


def is_gym_task(name: str) -> bool:
    """Whether a name is for `GymTask`: a registered id, and not of a MiniGrid world. Raises `UserError` if it fails."""
    from minigrid.minigrid_env import MiniGridEnv  # takes a while

    module, _, env_id = name.rpartition(":")
    with suppress(ImportError):  # whoever needs the module says so
        if module:
            importlib.import_module(module)
    if env_id not in gym.registry:
        return False
    env = make_single(env_id)
    env.close()
    return not isinstance(env.unwrapped, MiniGridEnv)


class World(gym.Wrapper[Obs, NDArray[np.float32], Obs, NDArray[np.float32]]):
    """One world: float32 observations, actions in [-1, 1], and the seed of each episode.

    Args:
        env: The environment.
        index: n, among its fellows.
        seed: Key of the stream that draws level seeds.
        bounds: First level seed, and the one after the last.
    """

    def __init__(self, env: gym.Env[Any, Any], index: int, seed: int, bounds: tuple[int, int]) -> None:
        super().__init__(RescaleAction(env, np.float32(-1), np.float32(1)))
        self.observation_space = Box(-np.inf, np.inf, env.observation_space.shape, np.float32)
        self.index, self.seed, self.bounds = index, seed, bounds
        self.episode = 0  # episodes begun whose level was drawn
        self.level_seed = -1
        self.success = False  # of the last step
        self.played: list[NDArray[np.float32]] = []  # actions of the running episode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Begin the episode of a level seed, or of the next one that the stream gives."""
        if seed is None:
            seed = int(drawn_seed(self.seed, self.index, self.episode, *self.bounds))
            self.episode += 1
        self.level_seed, self.played = seed, []
        return self.env.reset(seed=seed)[0].astype(np.float32), {}

    def step(self, action: NDArray[np.float32]) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Step. Infos stay here: `GymVectorEnv` reads what it needs."""
        self.played.append(np.array(action, np.float32))
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.success = any(bool(info.get(name, False)) for name in _SUCCESS)
        return obs.astype(np.float32), float(reward), bool(terminated), bool(truncated), {}


class GymVectorEnv(gym.vector.SyncVectorEnv):
    """N worlds of a Gymnasium id: its own vector class, autoreset in the same step.

    Observations are float32 [N, O], actions float32 [N, A] in [-1, 1].

    Infos of `reset` and `step`:
        level_seed: int64 [N], of the episode that is now running.
        success: bool [N], whether this step ended an episode in what the environment calls success (`step` only); few
            environments know of it, the rest is false.
        final_obs, _final_obs: when some world finished, the last observations, same shape as observations, and bool
            [N], the rows that are valid.
        final_info, _final_info: likewise `{"level_seed": int64 [N]}` of the episodes that finished.

    Args:
        env_id: Gymnasium's id, or for others' use of this class what messages call the environment.
        num_envs: N.
        split: `train` (level seeds below 1,000,000) or `eval` (the million from there on).
        seed: Key of the stream that draws level seeds; episode e of world n depends on (seed, n, e) alone.
        make: Makes one of the environments; `make_single(env_id)` if not given.
    """

    envs: list[World]  # type: ignore[assignment]  # each is a `gym.Env`

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        split: str = "train",
        seed: int = 0,
        make: Callable[[], gym.Env[Any, Any]] | None = None,
    ) -> None:
        self.env_id, self.split, self.bounds = env_id, split, split_range(split)
        make = make or partial(make_single, env_id)

        def maker(index: int) -> Callable[[], gym.Env[Any, Any]]:
            return lambda: World(make(), index, seed, self.bounds)

        super().__init__([maker(n) for n in range(num_envs)], autoreset_mode=AutoresetMode.SAME_STEP)

    def reset(  # type: ignore[override]  # a seed is one key for all worlds
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Start an episode in every world.

        Args:
            seed: Restarts the stream of level seeds under this key; None continues it.
            options: `{"level_seeds": int64 [N]}` plays those levels first; what follows them is drawn.

        Raises:
            UserError: A level seed is not of this environment's split.
        """
        if seed is not None:
            for env in self.envs:
                env.seed, env.episode = int(seed), 0
        wanted = wanted_levels(options, self.num_envs, self.split)
        obs, _ = super().reset(seed=None if wanted is None else wanted.tolist())
        return obs, {"level_seed": self._level_seeds()}

    def step(  # type: ignore[override]
        self, actions: NDArray[np.floating]
    ) -> tuple[Obs, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step every world; see the class for the infos.

        Raises:
            UserError: An observation or a reward is not finite.
        """
        before = self._level_seeds()
        obs, reward, terminated, truncated, said = super().step(actions)
        ended = terminated | truncated
        infos: dict[str, Any] = {"success": ended & [env.success for env in self.envs]}
        last = obs
        if ended.any():
            last = obs.copy()
            last[ended] = np.stack(list(said["final_obs"][ended]))
            infos |= {"final_obs": last, "_final_obs": ended, "final_info": {"level_seed": before}}
            infos["_final_info"] = ended.copy()
        sound = np.isfinite(last).all(axis=1) & np.isfinite(reward)
        if not sound.all():
            level = int(before[~sound][0])
            raise UserError(f"{self.env_id} gave what is not a finite number, in the episode of level seed {level}.")
        infos["level_seed"] = self._level_seeds()
        return obs, reward, terminated, truncated, infos

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Everything that the future depends on, as plain arrays: level seeds, and the actions since."""
        size = self.single_action_space.shape
        played = [np.reshape(env.played, (-1, *size)) for env in self.envs]  # type: ignore[misc]  # a box has a shape
        return {
            "seed": np.array([env.seed for env in self.envs]),
            "episode": np.array([env.episode for env in self.envs]),
            "level_seed": self._level_seeds(),
            "length": np.array([len(actions) for actions in played]),
            "actions": np.concatenate(played).astype(np.float32),
        }

    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Play the running episodes of `get_state` again. Raises `UserError` if they are of other worlds."""
        for name, array in self.get_state().items():
            if name not in state or np.shape(state[name])[name == "actions" :] != array.shape[name == "actions" :]:
                fits = f"{self.num_envs} worlds of {self.env_id}"
                raise UserError(f"The saved state does not fit {fits}: {name} differs.")
        starts = np.cumsum(state["length"])[:-1]
        for n, (env, actions) in enumerate(zip(self.envs, np.split(state["actions"], starts), strict=True)):
            env.seed, env.episode = int(state["seed"][n]), int(state["episode"][n])
            env.reset(seed=int(state["level_seed"][n]))
            for action in actions:
                env.step(action)

    def _level_seeds(self) -> NDArray[np.int64]:
        return np.array([env.level_seed for env in self.envs], np.int64)


def _is_vector(space: gym.Space[Any]) -> TypeGuard[Box]:
    return isinstance(space, Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating)


class GymTask:
    """A Gymnasium environment as a task without anything to plan; see `envs.task.Task` for the methods.

    Args:
        env_id: Gymnasium's id; as `module:id` the module that registers it is imported first.

    Raises:
        UserError: There is no such environment, or observations or actions are no vectors.
    """

    def __init__(self, env_id: str) -> None:
        env = make_single(env_id)
        seen, done = env.observation_space, env.action_space
        env.close()
        if not (_is_vector(seen) and _is_vector(done) and done.is_bounded()):
            raise UserError(
                f"{env_id} is not a MiniGrid environment, nor are its observations one vector and its actions one "
                f"within bounds: they are {seen} and {done}.",
                f"--task {GYM_TASKS[1]}",
            )
        self._env_id = env_id
        self.name = env_id.rpartition(":")[2].replace("/", "-")
        self.goal, self.rules = "Collect as much reward as you can.", "Nothing here is in words."
        self.options = OptionSpace([Option("act", "act", timeout=1)])
        self.goal_space = GoalSpace((), ())
        self.observation_shape: tuple[int, ...] = seen.shape
        self.observation_scale: tuple[float, ...] = (1.0,) * seen.shape[0]
        self.hidden_from_low_level: tuple[int, ...] = ()
        self.num_actions = done.shape[0]
        self.continuous = True
        self._scene = Scene(self.name, (), "Act.", (0,))

    def make_vec(self, num_envs: int, *, split: str = "train", seed: int = 0) -> gym.vector.VectorEnv:
        """Batched environments; `split` is `train` (level seeds < 1,000,000) or `eval` (at or above it)."""
        return GymVectorEnv(self._env_id, num_envs, split, seed)

    def make_single(self, level_seed: int) -> gym.Env:
        """One environment at the start of a level, in lock step with the batched ones, whose `render` draws it."""
        env = World(make_single(self._env_id, "rgb_array"), 0, 0, split_range("train"))
        env.reset(seed=level_seed)
        return env

    def describe(self, obs: Obs) -> list[Scene]:
        """The one scene, for each of the observations [N, O]."""
        return [self._scene] * len(obs)

    def fact_codes(self, obs: Obs) -> NDArray[np.int64]:
        """Zeros [N]."""
        return np.zeros(len(obs), np.int64)

    def legal(self, obs: Obs) -> NDArray[np.bool_]:
        """The one option is always legal, [N, 1]."""
        return np.ones((len(obs), 1), np.bool_)

    def option_done(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The one option is over at every step, [N]."""
        return np.ones(len(obs), np.bool_)

    def option_achieved(self, before: Obs, after: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Acting is for nothing in particular, [N]."""
        return np.zeros(len(after), np.bool_)

    def ground(self, obs: Obs, option: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Goals without dimensions, [N, 0] twice."""
        return np.zeros((len(obs), 0), np.float32), np.zeros((len(obs), 0), np.float32)

    def skill(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.float32]:
        """Raises `UserError`: nobody has scripted these."""
        raise UserError(
            f"Nobody has scripted how to act in {self.name}, nor is there anything to teach.", "--method sac"
        )

    def teacher_view(self, obs: Obs, level_seeds: NDArray[np.int64]) -> Obs:
        """The observations [N, O] themselves."""
        return obs

    def teacher_to_true(self, level_seeds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index [N, 1]: the one option is itself."""
        return np.zeros((len(level_seeds), 1), np.int64)

    def script(self, scene: Scene) -> int:
        """The one option."""
        return 0

    def sample_scenes(self, rng: np.random.Generator, count: int) -> list[Scene]:
        """The one scene, so many times."""
        return [self._scene] * count

"""Pick and place as teachers, controllers and hierarchies see it: `envs.task.Task` over Gymnasium-Robotics' arm."""

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.fetch import scenes
from envs.fetch.single import FetchEnv
from envs.fetch.skills import act, destinations
from envs.fetch.state import BLOCK, GOAL, GRIPPER, OBSERVATION_NAMES, REACH, Obs, observation_scale
from envs.fetch.world import make_fetch
from envs.gym_tasks import GymVectorEnv
from envs.task import GoalSpace, Scene
from ground.level_seeds import split_of

_PRECISION = 0.02  # metres: how near to where it leads an option has to come
_POSITIONS = (*range(len(OBSERVATION_NAMES))[GRIPPER], *range(len(OBSERVATION_NAMES))[BLOCK])


class FetchTask:
    """Pick and place; see `envs.task.Task` for the methods. What is its own:

    Observations are float32 [N, 28] (`state.OBSERVATION_NAMES`), actions float32 [N, 4] (`skills`); what an episode is,
    and success, is the original's (`world.FlatFetch`). `ground` speaks of where gripper and block are, in metres. The
    goal's place is what a low level that follows other goals does not see.
    """

    name = scenes.NAME
    goal, rules = scenes.GOAL, scenes.RULES
    options = scenes.OPTIONS
    goal_space = GoalSpace(
        tuple(OBSERVATION_NAMES[i] for i in _POSITIONS), (REACH,) * len(_POSITIONS), indices=_POSITIONS
    )
    observation_shape: tuple[int, ...] = (len(OBSERVATION_NAMES),)
    observation_scale: tuple[float, ...] = observation_scale()
    hidden_from_low_level: tuple[int, ...] = tuple(range(len(OBSERVATION_NAMES))[GOAL])
    num_actions = 4
    continuous = True

    def make_vec(self, num_envs: int, *, split: str = "train", seed: int = 0) -> gym.vector.VectorEnv:
        """Batched environments; `split` is `train` (level seeds < 1,000,000) or `eval` (at or above it).

        They are stepped one after another: a step is 2 ms of simulation, beside which a loop costs nothing.
        """
        return GymVectorEnv(self.name, num_envs, split, seed, make=make_fetch)

    def make_single(self, level_seed: int) -> gym.Env:
        """One environment at the start of a level, in lock step with the batched ones, whose `render` draws it."""
        env = FetchEnv(split_of(level_seed), render_mode="rgb_array")
        env.reset(options={"level_seed": level_seed})
        return env

    def fact_codes(self, obs: Obs) -> NDArray[np.int64]:
        """One integer per observation [N]; equal integers mean equal facts."""
        return scenes.codes(obs)

    def describe(self, obs: Obs) -> list[Scene]:
        """Scenes of observations [N, 28]; the same object for equal facts."""
        return [scenes.SCENES[code] for code in scenes.codes(obs)]

    def legal(self, obs: Obs) -> NDArray[np.bool_]:
        """Legality of each option [N, 4]."""
        return scenes.legal(scenes.codes(obs))

    def option_done(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each option [N] is over: reached, or no longer possible."""
        return scenes.done(scenes.codes(obs), np.asarray(option))

    def option_achieved(self, before: Obs, after: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the step between two observations [N, 28] got where the option [N] leads, or kept the block there."""
        return scenes.achieved(scenes.codes(before), scenes.codes(after), np.asarray(option))

    def ground(self, obs: Obs, option: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Where each option [N] leads gripper and block, [N, 6] in metres, and 2 cm [N, 6] for the scale."""
        mean = destinations(obs, np.asarray(option)).astype(np.float32)
        return mean, np.full_like(mean, _PRECISION)

    def skill(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.float32]:
        """Actions [N, 4] of the scripted executor of each option."""
        return act(obs, np.asarray(option))

    def teacher_view(self, obs: Obs, level_seeds: NDArray[np.int64]) -> Obs:
        """The observations [N, 28] themselves: no teacher is limited."""
        return obs

    def teacher_to_true(self, level_seeds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index [N, 4] that takes a teacher's answers back: each option is itself."""
        return np.tile(np.arange(len(self.options)), (len(level_seeds), 1))

    def script_batch(self, obs: Obs) -> NDArray[np.int64]:
        """The expert's option [N] for observations [N, 28]."""
        return scenes.expert(scenes.codes(obs))

    def script(self, scene: Scene) -> int:
        """The expert's option for a scene of this task, from its facts alone."""
        return int(scenes.expert(np.array(scenes.code_of(scene))))

    def sample_scenes(self, rng: np.random.Generator, count: int) -> list[Scene]:
        """Any of the eight scenes, all alike."""
        return [scenes.SCENES[code] for code in rng.integers(len(scenes.SCENES), size=count)]

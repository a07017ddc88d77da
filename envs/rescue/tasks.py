"""Rescue World as teachers, controllers and hierarchies see it: `envs.task.Task` with vectors and named actions."""

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.rescue.expert import ways
from envs.rescue.scenes import scenes
from envs.rescue.single import RescueEnv
from envs.rescue.specs import NUM_ACTIONS, RescueSpec
from envs.rescue.vector import RescueVectorEnv
from envs.task import GoalSpace, Scene
from ground.level_seeds import split_of

Obs = NDArray[np.floating]


class RescueTask:
    """A Rescue World; see `envs.task.Task` for the methods. What is its own:

    An observation is float32 [2 * size + n], all zeros and ones: the agent's x and its y one-hot, then for each target
    whether it is still to be found. Which target is *due* is not in it, since that is what an annotator is asked; the
    environments tell it in `info["option"]`. Where the targets are is the same in every episode, and so is not in it.

    `halo_view` are the positions that HALO's filtered observation keeps (shared/reference/halo.md, section 2.1): the
    agent's cell alone, so that without knowing the option nobody can tell where to go. What it leaves out is
    `hidden_from_low_level`.

    Args:
        spec: The map and the order of the targets.
    """

    def __init__(self, spec: RescueSpec) -> None:
        self.name, self.spec = spec.name, spec
        self._scenes, self._ways = scenes(spec), ways(spec)
        self.goal = "Find all targets." if spec.random_order else "Find all targets in their order."
        self.rules = self._scenes.rules
        self.options = self._scenes.options
        self.goal_space = GoalSpace(("x", "y"), (1.0, 1.0))
        width = 2 * spec.size + len(spec.targets)
        self.observation_shape: tuple[int, ...] = (width,)
        self.observation_scale: tuple[float, ...] = (1.0,) * width
        self.halo_view: tuple[int, ...] = tuple(range(2 * spec.size))
        self.hidden_from_low_level: tuple[int, ...] = tuple(range(2 * spec.size, width))
        self.num_cells = spec.num_cells
        self.num_actions = NUM_ACTIONS
        self.continuous = False

    def make_vec(self, num_envs: int, *, split: str = "train", seed: int = 0) -> gym.vector.VectorEnv:
        """Batched environments; `split` is `train` (level seeds < 1,000,000) or `eval` (at or above it)."""
        return RescueVectorEnv(self.spec, num_envs, split=split, seed=seed)

    def make_single(self, level_seed: int) -> gym.Env:
        """One environment at the start of a level, in lock step with the batched ones, whose `render` draws it."""
        split = split_of(level_seed)
        env = RescueEnv(self.spec, split=split, render_mode="rgb_array")
        env.reset(options={"level_seed": level_seed})
        return env

    def cells(self, obs: Obs) -> NDArray[np.int64]:
        """The cell [N] that each agent is in, as a number x * size + y: the state of a tabular policy."""
        size = self.spec.size
        return obs[:, :size].argmax(axis=1) * size + obs[:, size : 2 * size].argmax(axis=1)

    def left(self, obs: Obs) -> NDArray[np.bool_]:
        """Which targets are still to be found [N, n]."""
        return obs[:, 2 * self.spec.size :] > 0.5

    def fact_codes(self, obs: Obs) -> NDArray[np.int64]:
        """One integer per observation [N]; equal integers mean equal facts."""
        return self._scenes.codes(self.cells(obs), self.left(obs))

    def describe(self, obs: Obs) -> list[Scene]:
        """Scenes of observations [N, O]; the same object for equal facts."""
        return [self._scenes.scene(code) for code in self.fact_codes(obs).tolist()]

    def legal(self, obs: Obs) -> NDArray[np.bool_]:
        """Legality of each option [N, K]: of the targets that are left."""
        return self._scenes.legal[self.fact_codes(obs)]

    def option_done(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each option [N] is over: its target is found, or the agent stands on it and it was not due."""
        option = np.asarray(option)
        found = ~self.left(obs)[np.arange(len(obs)), option]
        return found | (self.cells(obs) == self.spec.target_cells[option])

    def option_achieved(self, before: Obs, after: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the step between two observations found the target of each option [N]."""
        rows = np.arange(len(after))
        return self.left(before)[rows, option] & ~self.left(after)[rows, option]

    def ground(self, obs: Obs, option: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cell (x, y) [N, 2] of each option's target; scale one cell [N, 2]."""
        mean = np.array(self.spec.targets, dtype=np.float32)[option]
        return mean, np.ones_like(mean)

    def skill(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.int64]:
        """Primitive action [N] on a cheapest way to each option's target, always the same one of several."""
        return self._ways.actions(self.cells(obs), np.asarray(option))

    def expert_actions(
        self, obs: Obs, target: NDArray[np.int64], rng: np.random.Generator, epsilon: float = 0.0
    ) -> NDArray[np.int64]:
        """Primitive action [N] of the expert of demonstrations towards the targets [N] that are due.

        It takes a random one of the cheapest ways, and with probability `epsilon` a uniformly random action instead.
        """
        return self._ways.actions(self.cells(obs), np.asarray(target), rng, epsilon)

    def teacher_view(self, obs: Obs, level_seeds: NDArray[np.int64]) -> Obs:
        """The observations [N, O] themselves: no teacher of a Rescue World is limited."""
        return obs

    def teacher_to_true(self, level_seeds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index [N, K] that takes a teacher's answers back: each option is itself."""
        return np.tile(np.arange(len(self.options)), (len(level_seeds), 1))

    def script_batch(self, obs: Obs) -> NDArray[np.int64]:
        """The expert's option [N] for observations [N, O]."""
        return self._scenes.expert[self.fact_codes(obs)]

    def script(self, scene: Scene) -> int:
        """The expert's option for a scene of this task, from its facts alone.

        In fixed order that is the target which is due: the first one left. In random order *no scene tells which one
        is due*, so the script is no truth there but a way to search: go to the nearest target that is left, by the mean
        way from the region; and from a target that turns out not to be due to the next one left, in turn.
        """
        return int(self._scenes.expert[self._scenes.code_of(scene)])

    def sample_scenes(self, rng: np.random.Generator, count: int) -> list[Scene]:
        """Scenes of any place and any targets left, also out of order; none contradicts itself."""
        return [self._scenes.scene(code) for code in rng.choice(self._scenes.consistent, size=count).tolist()]

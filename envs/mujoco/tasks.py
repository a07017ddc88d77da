"""The mazes as teachers, controllers and hierarchies see them: `envs.task.Task` with float observations and actions."""

from dataclasses import replace
from functools import cache

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.mujoco.mazes import MazeSpec, maze_spec
from envs.mujoco.planners import seek
from envs.mujoco.regions import CHASM, regions
from envs.mujoco.single import MazeEnv
from envs.mujoco.vector import MazeVectorEnv
from envs.task import Scene
from ground.errors import UserError
from ground.level_seeds import split_of

Obs = NDArray[np.floating]


class MazeTask:
    """A maze task; see `envs.task.Task` for the methods. What differs from grids:

    Observations are float32 [N, D] (`spec.observation_names`), primitive actions float32 [N, A] in [-1, 1], so that
    `num_actions` is the number of motors and `skill` returns floats. `ground` speaks of (x, y) in metres from where the
    robot's first cell has its centre, as `goal_space` does, one of the maze's `goal_spaces` by name.

    Args:
        spec: The maze. Its map must be in words (`regions.CHARTS`), and its block observed.
    """

    def __init__(self, spec: MazeSpec) -> None:
        self.name, self.spec = spec.name, spec
        self._regions = regions(spec)
        self.goal, self.rules = self._regions.chart.goal, self._regions.chart.rules
        self.options = self._regions.options
        self.goal_spaces = {
            name: replace(space, indices=spec.indices(space)) for name, space in spec.goal_spaces.items()
        }
        self.goal_space = next(space for space in self.goal_spaces.values() if space.names == ("x", "y"))
        self.observation_shape: tuple[int, ...] = (len(spec.observation_names),)
        self.observation_scale = spec.observation_scale
        self.hidden_from_low_level = spec.hidden_from_low_level
        self.num_actions = spec.robot.num_actions
        self.continuous = True
        self._scenes: dict[int, Scene] = {}

    def make_vec(self, num_envs: int, *, split: str = "train", seed: int = 0) -> gym.vector.VectorEnv:
        """Batched environments; `split` is `train` (level seeds < 1,000,000) or `eval` (at or above it)."""
        return MazeVectorEnv(self.spec, num_envs, split=split, seed=seed)

    def make_single(self, level_seed: int) -> gym.Env:
        """One environment at the start of a level, in lock step with the batched ones, whose `render` draws it."""
        split = split_of(level_seed)
        env = MazeEnv(self.spec, split=split, render_mode="rgb_array")
        env.reset(options={"level_seed": level_seed})
        return env

    def fact_codes(self, obs: Obs) -> NDArray[np.int64]:
        """One integer per observation [N]; equal integers mean equal facts."""
        return self._regions.codes(obs)

    def describe(self, obs: Obs) -> list[Scene]:
        """Scenes of observations [N, D]; the same object for equal facts."""
        return [self.scene(int(code)) for code in self.fact_codes(obs)]

    def legal(self, obs: Obs) -> NDArray[np.bool_]:
        """Legality of each option [N, K]."""
        return self._regions.legal[self.fact_codes(obs)]

    def option_done(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each option [N] is over: achieved, or no longer possible."""
        return self._regions.done(obs, np.asarray(option))

    def option_achieved(self, before: Obs, after: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the step between two observations [N, D] led to the place, or moved the block to its next state."""
        return self._regions.achieved(before, after, np.asarray(option))

    def ground(self, obs: Obs, option: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Where each option [N] heads for, (x, y) [N, 2] in metres, and a quarter of a cell [N, 2] for the scale."""
        mean = self._regions.ground(obs, np.asarray(option)).astype(np.float32)
        return mean, np.full_like(mean, 0.25 * self.spec.cell)

    def skill(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.float32]:
        """Actions [N, 2] of the scripted executor of each option. Raises `UserError` for an ant, which has none."""
        if self.spec.robot.name != "point":
            raise UserError(f"Nobody has scripted how to walk in {self.name}.", "--method hiro --prior none")
        return seek(self.spec, np.asarray(obs), self._regions.ground(obs, np.asarray(option)))

    def teacher_view(self, obs: Obs, level_seeds: NDArray[np.int64]) -> Obs:
        """The observations [N, D] themselves: no teacher of a maze is limited."""
        return obs

    def teacher_to_true(self, level_seeds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index [N, K] that takes a teacher's answers back: each option is itself."""
        return np.tile(np.arange(len(self.options)), (len(level_seeds), 1))

    def script_batch(self, obs: Obs) -> NDArray[np.int64]:
        """The expert's option [N] for observations [N, D]."""
        return self._regions.expert[self.fact_codes(obs)]

    def script(self, scene: Scene) -> int:
        """The expert's option for a scene of this task, from its facts alone."""
        return int(self._regions.expert[self._code(scene)])

    def sample_scenes(self, rng: np.random.Generator, count: int) -> list[Scene]:
        """Scenes of random consistent facts: any state of the block, any place where the robot can then be."""
        return [self.scene(self._sample(rng)) for _ in range(count)]

    def scene(self, code: int) -> Scene:
        """The scene of a code; the same object each time."""
        if code not in self._scenes:
            state, place, goal = self._regions.decode(code)
            places, block = self._regions.places, self._regions.chart.states[state]
            facts = [f"robot={places[place]}", f"goal={places[goal]}"] + [f"block={block.name}"] * bool(block.name)
            where = "You have fallen into the chasm." if places[place] == CHASM else f"You are {_at(places[place])}."
            text = f"{where} The goal is {_at(places[goal])}. {block.words}".strip()
            legal = tuple(np.flatnonzero(self._regions.legal[code]).tolist())
            self._scenes[code] = Scene(self.name, tuple(facts), text, legal)
        return self._scenes[code]

    def _code(self, scene: Scene) -> int:
        said = dict(fact.split("=", 1) for fact in scene.facts)
        names = [state.name for state in self._regions.chart.states]
        places = self._regions.places
        return self._regions.encode(
            names.index(said.get("block", "")), places.index(said["robot"]), places.index(said["goal"])
        )

    def _sample(self, rng: np.random.Generator) -> int:
        state = int(rng.integers(len(self._regions.chart.states)))
        possible = self._regions.open_places(state).tolist()
        if CHASM in self._regions.places:
            possible.append(len(self._regions.places) - 1)
        return self._regions.encode(state, int(rng.choice(possible)), int(rng.choice(self._regions.goal_places)))


def _at(place: str) -> str:
    return f"{'in' if place.endswith(('corner', 'middle')) else 'on'} the {place}"


@cache
def maze_task(name: str) -> MazeTask:
    """The task of a maze by name, always the same object. Raises `UserError` for an unknown name or an unseen block."""
    return MazeTask(maze_spec(name))

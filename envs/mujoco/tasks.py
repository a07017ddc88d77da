"""The mazes as teachers, controllers and hierarchies see them: scenes, options, what the expert chooses, a PD skill.

A scene is a state of the block, the place of the robot and the place of the goal.
"""

from functools import cached_property
from typing import Any, Final

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from preceptor.envs.mujoco.charts import CHARTS
from preceptor.envs.mujoco.mazes import SPECS, MazeSpec
from preceptor.envs.mujoco.simulator import MazeSimulator
from preceptor.envs.task import Option, OptionSpace, TableTask, Task
from preceptor.envs.vector import BatchedEnv, Simulator, SingleEnv
from preceptor.ground.errors import UserError

Obs = NDArray[np.floating]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

CHASM: Final = "chasm"
_IN_LINE = 0.25  # of a cell, how far beside the block's middle one may push


class MazeTask(TableTask):
    """A maze; see `preceptor.envs.task.Task` for the methods. What is its own:

    Observations are float32 [N, D] (`spec.observation_names`), primitive actions float32 [N, A] in [-1, 1]. `ground`
    speaks of (x, y) in metres from the centre of the robot's first cell, as `goal_space` does, which is one of the
    robot's `goal_spaces`. Options are `goto:PLACE` for each of P places, `goto:goal`, and `push:DIRECTION` where there
    is a block. The expert's option leads to the goal on a shortest way; it is `goto:goal` if nothing does.

    Args:
        spec: The maze.

    Raises:
        UserError: The block is not observed, or the map is not in words.
    """

    continuous = True

    def __init__(self, spec: MazeSpec) -> None:
        if spec.block_axes and not spec.observe_block:
            raise UserError(
                f"{spec.name} does not show its block, so there is no planning there.", f"--task {spec.name}Robust"
            )
        if spec.layout not in CHARTS:
            raise UserError(f"The map of {spec.name} has no words.", "add it to CHARTS in envs/mujoco/charts.py")
        self.name, self.spec, self.chart = spec.name, spec, CHARTS[spec.layout]
        self.goal, self.rules, self._pushes = self.chart.goal, self.chart.rules, self.chart.pushes
        self.goal_spaces = spec.robot.goal_spaces
        self.goal_space = next(space for space in self.goal_spaces.values() if space.names == ("x", "y"))
        self.observation_shape, self.num_actions = (len(spec.observation_names),), spec.robot.num_actions
        self.observation_scale, self.hidden_from_low_level = spec.observation_scale, spec.hidden_from_low_level
        self.hidden_from_high_level = spec.hidden_from_high_level
        self.action_groups = spec.robot.action_groups
        far = 15 if spec.robot.name == "point" else 60  # steps from a place to the next one, with room to spare
        goto = [Option(f"goto:{place}", f"go to the {place}", far) for place in self.chart.places.values()]
        pushes = [Option(f"push:{push.direction}", push.words, 2 * far) for push in self._pushes]
        self.options = OptionSpace([*goto, Option("goto:goal", "go straight to the goal", 2 * far), *pushes])
        self.places = (*self.chart.places.values(), *((CHASM,) if spec.elevated else ()))
        self._cells = list(self.chart.places)
        self._centres = np.array(self._cells, dtype=np.float64)  # in cells
        self._at = {name: i for i, name in enumerate(spec.observation_names)}
        self._states = [state.name for state in self.chart.states]
        self._open = np.array([[cell not in state.closed for cell in self._cells] for state in self.chart.states])
        self._shape = len(self._states), len(self.places), len(self.places)
        judged = [self._judge(state) for state in range(len(self._states))]
        self.legal_of, self.expert_of = (np.concatenate(parts) for parts in zip(*judged, strict=True))
        self._over = self._tabulate_over()

    def simulator(self, num_envs: int, render_mode: str | None = None) -> Simulator:
        """The rules of N environments."""
        return MazeSimulator(self.spec, num_envs)

    @cached_property
    def scattered(self) -> Task:
        """Of an ant, the maze in states at random; a point has a skill."""
        from preceptor.envs.mujoco.scattered import ScatteredMaze  # which is a MazeTask

        return self if self.spec.robot.name == "point" else ScatteredMaze(self.spec)

    def fact_codes(self, obs: Obs) -> NDArray[np.int64]:
        """One integer per observation [N]; equal integers mean equal facts."""
        return np.ravel_multi_index(self._facts(obs), self._shape)

    def option_done(self, obs: Obs, option: NDArray[np.int64]) -> Mask:
        """Whether each option [N] is over: achieved, or no longer possible. Going for the goal ends by its time-out."""
        state, place, _ = self._facts(obs)
        return self._over[state, place, option]

    def option_achieved(self, before: Obs, after: Obs, option: NDArray[np.int64]) -> Mask:
        """Whether the step between two observations [N, D] led to the place, or the block to what the push is for."""
        state, place, _ = self._facts(after)
        goal = [name for name in self.spec.observation_names if name.startswith("goal_")]
        left = self._read(after, *(name.removeprefix("goal_") for name in goal)) - self._read(after, *goal)
        at_goal = np.linalg.norm(left, axis=1) < self.spec.radius / self.spec.cell
        places = len(self._cells)
        end = np.array([-1] * (places + 1) + [self._states.index(push.end) for push in self._pushes])[option]
        pushed = (self._state(before) != end) & (state == end)
        return np.select([option < places, option == places], [place == option, at_goal], pushed)

    def ground(self, obs: Obs, option: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Where each option [N] heads for, (x, y) [N, 2] in metres, and a quarter of a cell [N, 2] for the scale."""
        mean = self._targets(obs, np.asarray(option)).astype(np.float32)
        return mean, np.full_like(mean, 0.25 * self.spec.cell)

    def _targets(self, obs: Obs, option: NDArray[np.int64]) -> Floats:
        """Where each option [N] heads for, (x, y) [N, 2] in metres; a push lines up with the block first."""
        places, here = len(self._cells), self._read(obs, "x", "y")
        targets = np.array([*self._cells, (np.nan, np.nan), *(push.target for push in self._pushes)])[option]
        targets[option == places] = self._read(obs, "goal_x", "goal_y")[option == places]
        for i, push in enumerate(self._pushes):
            across = int(push.direction in ("east", "west"))  # the axis along which the block does not move
            off = np.abs(here[:, across] - push.target[across]) > _IN_LINE
            for name, stand in push.stands.items():
                targets[(option == places + 1 + i) & off & (self._state(obs) == self._states.index(name))] = stand
        return self.spec.cell * targets

    def skill(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.float32]:
        """Actions [N, 2] that bring a point to where options [N] head for: proportional control, with damping.

        Raises:
            UserError: The robot is an ant, for which there are no skills.
        """
        if self.spec.robot.name != "point":
            train = f"python main.py train --method hiro --task {self.name} --high-level controller"
            raise UserError(f"There are no scripted skills for walking in {self.name}.", f"{train}  # learns them")
        x, y, vx, vy = (self._at[name] for name in ("x", "y", "vx", "vy"))
        obs = np.asarray(obs)
        missing = self._targets(obs, np.asarray(option)) - obs[:, [x, y]]
        return np.clip(missing - 0.5 * obs[:, [vx, vy]], -1.0, 1.0).astype(np.float32)

    def sample_codes(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Codes of random consistent facts: any state of the block, any place where the robot or the goal can be."""
        corners = np.array([*self.spec.train_goals, *self.spec.eval_goals])[:, :2] / self.spec.cell
        within = (self._centres + 0.5 > corners.min(axis=0)) & (self._centres - 0.5 < corners.max(axis=0))
        goals, sampled = np.flatnonzero(within.all(axis=1)), []
        for _ in range(count):
            state = int(rng.integers(len(self._states)))
            possible = [*np.flatnonzero(self._open[state]), *range(len(self._cells), len(self.places))]
            sampled.append((state, rng.choice(possible), rng.choice(goals)))
        return np.ravel_multi_index(np.array(sampled).reshape(-1, 3).T, self._shape)

    def words(self, code: int) -> tuple[tuple[str, ...], str]:
        """The facts of a code, and the English for them."""
        state, place, goal = np.unravel_index(code, self._shape)
        here, there, block = self.places[place], self.places[goal], self.chart.states[state]
        facts = (f"robot={here}", f"goal={there}", *[f"block={block.name}"] * bool(block.name))
        where = "You have fallen into the chasm." if here == CHASM else f"You are {_in_words(here)}."
        return facts, f"{where} The goal is {_in_words(there)}. {block.words}".strip()

    def _judge(self, state: int) -> tuple[Mask, NDArray[np.int64]]:
        """Legal options [C, K] and the expert's [C] in a state of the block, for each place of robot and goal."""
        places, name, free = len(self._cells), self._states[state], self._open[state]
        beside = (np.abs(self._centres[:, None] - self._centres).sum(axis=2) == 1) & free & free[:, None]
        way = np.full((places, places), -1)  # the first step of a shortest way [from, to], -1 for none
        for end in range(places):
            way[end, end], reached = end, [end]
            for place in reached:  # grows meanwhile
                new = np.flatnonzero(beside[place] & (way[:, end] < 0)).tolist()
                way[new, end] = place
                reached += new
        legal = np.zeros((*self._shape[1:], len(self.options)), dtype=np.bool_)
        legal[..., places] = True  # going straight for the goal is always possible, and often wrong
        legal[:places, :places, :places] = beside[:, None]
        for i, push in enumerate(self._pushes):
            if name in push.stands:
                stand = self._cells.index(push.stands[name])
                legal[stand, :places, places + 1 + i] = True
                if i == 0:
                    to_push = np.where(np.arange(places) == stand, places + 1, way[:, stand])
                    way = np.where(way < 0, to_push[:, None], way)
        expert = np.full(self._shape[1:], places)
        expert[:places, :places] = np.where((way < 0) | np.eye(places, dtype=np.bool_), places, way)
        return legal.reshape(-1, len(self.options)), expert.reshape(-1)

    def _tabulate_over(self) -> Mask:
        """Whether options are over, by state, place and option [S, P or P + 1, K]."""
        places, over = len(self._cells), np.zeros((*self._shape[:2], len(self.options)), dtype=np.bool_)
        over[..., :places] = ~self._open[:, None] | np.eye(self._shape[1], places, dtype=np.bool_)
        over[:, places:, :places] = True  # fallen
        for i, push in enumerate(self._pushes):
            over[[name not in push.stands for name in self._states], :, places + 1 + i] = True
        return over

    def _facts(self, obs: Obs) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """State of the block, place of the robot, and place of the goal, each [N]."""
        state = self._state(obs)
        place = self._nearest(self._read(obs, "x", "y"), self._open[state])
        if CHASM in self.places:
            place[self._read(obs, "z")[:, 0] * self.spec.cell < self.spec.height] = len(self._cells)
        return state, place, self._nearest(self._read(obs, "goal_x", "goal_y"))

    def _state(self, obs: Obs) -> NDArray[np.int64]:
        """Index of the block's state [N]."""
        found = np.zeros(len(obs), dtype=np.int64)
        for i, state in enumerate(self.chart.states):
            if state.axis:
                home = self.spec.block_home[state.axis] / self.spec.cell
                moved = self._read(obs, f"block_{state.axis}")[:, 0] - home
                found[moved * np.sign(state.moved) > abs(state.moved)] = i
        return found

    def _nearest(self, points: Floats, allowed: Mask | bool = True) -> NDArray[np.int64]:
        """Index of the allowed [N, P] place whose square is nearest to each point [N, 2]."""
        outside = np.maximum(np.abs(points[:, None] - self._centres) - 0.5, 0.0)  # [N, P, 2]
        return np.where(allowed, np.square(outside).sum(axis=2), np.inf).argmin(axis=1)

    def _read(self, obs: Obs, *names: str) -> Floats:
        """Named numbers [N, names] of observations, in cells."""
        return np.asarray(obs, dtype=np.float64)[:, [self._at[name] for name in names]] / self.spec.cell


def make_task(name: str) -> MazeTask:
    """The task of a maze by its exact name. Raises `UserError` for a block that is not observed."""
    return MazeTask(SPECS[name])


def make_single_env(task: str, split: str = "train", render_mode: str | None = None) -> SingleEnv:
    """One environment of any maze, also of those whose block is not observed."""
    return SingleEnv(MazeSimulator(SPECS[task], 1), split, render_mode)


def make_vec_env(
    task: str, num_envs: int = 1, autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP, **how: Any
) -> BatchedEnv:
    """Batched environments of any maze, likewise."""
    return BatchedEnv(MazeSimulator(SPECS[task], num_envs), autoreset_mode=autoreset_mode, **how)


def _in_words(place: str) -> str:
    return f"{'in' if place.endswith(('corner', 'middle')) else 'on'} the {place}"

"""The mazes as teachers, controllers and hierarchies see them: scenes, options, what the expert chooses, a PD skill.

A scene is a state of the block, the place of the robot and the place of the goal.
"""

from collections import deque
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from envs.mujoco.charts import CHARTS, Chart
from envs.mujoco.mazes import SPECS, MazeSpec
from envs.mujoco.simulator import MazeSimulator
from envs.task import Option, OptionSpace, TableTask
from envs.vector import SingleEnv
from ground.errors import UserError

Obs = NDArray[np.floating]
Floats = NDArray[np.float64]

CHASM = "chasm"
_IN_LINE = 0.25  # of a cell, how far beside the block's middle one may push


class MazeTask(TableTask):
    """A maze; see `envs.task.Task` for the methods. What is its own:

    Observations are float32 [N, D] (`spec.observation_names`), primitive actions float32 [N, A] in [-1, 1]. `ground`
    speaks of (x, y) in metres from the centre of the robot's first cell, as `goal_space` does, which is one of the
    maze's `goal_spaces` by name. Options are `goto:PLACE` for each place, `goto:goal`, and `push:DIRECTION` where there
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
        self.goal, self.rules, self.options = self.chart.goal, self.chart.rules, _options(spec, self.chart)
        self.goal_spaces = {
            name: replace(space, indices=spec.indices(space)) for name, space in spec.goal_spaces.items()
        }
        self.goal_space = next(space for space in self.goal_spaces.values() if space.names == ("x", "y"))
        self.observation_shape = (len(spec.observation_names),)
        self.observation_scale = spec.observation_scale
        self.hidden_from_low_level = spec.hidden_from_low_level
        self.num_actions = spec.robot.num_actions
        self.places = (*self.chart.places.values(), *((CHASM,) if spec.elevated else ()))
        self._cells = list(self.chart.places)
        self._centres = np.array(self._cells, dtype=np.float64)  # in cells
        self._at = {name: i for i, name in enumerate(spec.observation_names)}
        self._states = [state.name for state in self.chart.states]
        self._open = np.array([[cell not in state.closed for cell in self._cells] for state in self.chart.states])
        self._shape = len(self._states), len(self.places), len(self.places)
        self._goal_places = self._find_goal_places()
        judged = [self._judge(*index) for index in np.ndindex(self._shape)]
        self.legal_of = np.array([legal for legal, _ in judged])
        self.expert_of = np.array([choice for _, choice in judged])

    def simulator(self, num_envs: int, render_mode: str | None = None) -> MazeSimulator:
        """The rules of N environments."""
        return MazeSimulator(self.spec, num_envs)

    def fact_codes(self, obs: Obs) -> NDArray[np.int64]:
        """One integer per observation [N]; equal integers mean equal facts."""
        state, here = self._state(obs), self._read(obs, "x", "y")
        place = self._nearest(here, self._open[state])
        if self.spec.elevated:
            fallen = self._read(obs, "z")[:, 0] * self.spec.cell < self.spec.height
            place = np.where(fallen, len(self._cells), place)
        return np.ravel_multi_index((state, place, self._nearest(self._read(obs, "goal_x", "goal_y"))), self._shape)

    def option_done(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each option [N] is over: achieved, or no longer possible. Going for the goal ends by its time-out."""
        state, place, _ = np.unravel_index(self.fact_codes(obs), self._shape)
        option, places = np.asarray(option), len(self._cells)
        over = np.zeros(len(obs), dtype=np.bool_)
        going = option < places
        chosen = option[going]
        over[going] = (place[going] == chosen) | ~self._open[state[going], chosen] | (place[going] == places)
        for i, push in enumerate(self.chart.pushes):
            impossible = np.array([name not in push.stands for name in self._states])
            over |= (option == places + 1 + i) & impossible[state]
        return over

    def option_achieved(self, before: Obs, after: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the step between two observations [N, D] led to the place, or the block to what the push is for."""
        _, place, _ = np.unravel_index(self.fact_codes(after), self._shape)
        goal = [name for name in self.spec.observation_names if name.startswith("goal_")]
        left = self._read(after, *(name.removeprefix("goal_") for name in goal)) - self._read(after, *goal)
        at_goal = np.linalg.norm(left, axis=1) < self.spec.radius / self.spec.cell
        places = len(self._cells)
        end = np.array([-1] * (places + 1) + [self._states.index(push.end) for push in self.chart.pushes])[option]
        pushed = (self._state(before) != end) & (self._state(after) == end)
        return np.select([option < places, option == places], [place == option, at_goal], pushed)

    def ground(self, obs: Obs, option: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Where each option [N] heads for, (x, y) [N, 2] in metres, and a quarter of a cell [N, 2] for the scale."""
        mean = self._targets(obs, np.asarray(option)).astype(np.float32)
        return mean, np.full_like(mean, 0.25 * self.spec.cell)

    def skill(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.float32]:
        """Actions [N, 2] that bring a point to where options [N] head for: proportional control, with damping.

        Raises:
            UserError: The robot is an ant, for which there are no skills.
        """
        if self.spec.robot.name != "point":
            raise UserError(f"There are no scripted skills for walking in {self.name}.", "--method hiro --prior none")
        obs = np.asarray(obs)
        missing = self._targets(obs, np.asarray(option)) - obs[:, [self._at["x"], self._at["y"]]]
        return np.clip(missing - 0.5 * obs[:, [self._at["vx"], self._at["vy"]]], -1.0, 1.0).astype(np.float32)

    def sample_codes(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Codes of random consistent facts: any state of the block, any place where the robot can then be."""
        sampled = []
        for _ in range(count):
            state = int(rng.integers(len(self._states)))
            possible = [*np.flatnonzero(self._open[state]), *range(len(self._cells), len(self.places))]
            sampled.append((state, rng.choice(possible), rng.choice(self._goal_places)))
        return np.ravel_multi_index(np.array(sampled).reshape(-1, 3).T, self._shape)

    def words(self, code: int) -> tuple[tuple[str, ...], str]:
        """The facts of a code, and the English for them."""
        state, place, goal = np.unravel_index(code, self._shape)
        here, there, block = self.places[place], self.places[goal], self.chart.states[state]
        facts = (f"robot={here}", f"goal={there}", *[f"block={block.name}"] * bool(block.name))
        where = "You have fallen into the chasm." if here == CHASM else f"You are {_in_words(here)}."
        return facts, f"{where} The goal is {_in_words(there)}. {block.words}".strip()

    def _targets(self, obs: Obs, option: NDArray[np.int64]) -> Floats:
        """Where each option [N] heads for, (x, y) [N, 2] in metres; a push lines up with the block first."""
        places, here = len(self._cells), self._read(obs, "x", "y")
        targets = [*self._cells, (np.nan, np.nan), *(push.target for push in self.chart.pushes)]
        mean = np.array(targets, dtype=np.float64)[option]
        to_goal = option == places
        mean[to_goal] = self._read(obs, "goal_x", "goal_y")[to_goal]
        for i, push in enumerate(self.chart.pushes):
            across = "xy".index(push.across)
            off = np.abs(here[:, across] - push.target[across]) > _IN_LINE
            for state, stand in push.stands.items():
                mean[(option == places + 1 + i) & off & (self._state(obs) == self._states.index(state))] = stand
        return self.spec.cell * mean

    def _find_goal_places(self) -> NDArray[np.int64]:
        """Indices of the places where the task's goal can be."""
        corners = np.unique([*self.spec.train_goals, *self.spec.eval_goals], axis=0)[:, :2] / self.spec.cell
        low, high = corners.min(axis=0), corners.max(axis=0)
        if (low == high).all():
            return self._nearest(low[None])
        return np.flatnonzero(((self._centres + 0.5 > low) & (self._centres - 0.5 < high)).all(axis=1))

    def _judge(self, state: int, place: int, goal: int) -> tuple[NDArray[np.bool_], int]:
        """Legality of each option, and the expert's choice."""
        legal, places = np.zeros(len(self.options), dtype=np.bool_), len(self._cells)
        legal[places] = True  # going straight for the goal is always possible, and often wrong
        if max(place, goal) >= places or not self._open[state, place]:
            return legal, places
        gap = np.abs(self._centres[:, None] - self._centres[None]).sum(axis=2)
        beside = (gap == 1) & self._open[state][:, None] & self._open[state][None]
        legal[:places] = beside[place]
        name, pushes = self._states[state], self.chart.pushes
        stands = [self._cells.index(push.stands[name]) if name in push.stands else -1 for push in pushes]
        legal[places + 1 :] = [stand == place for stand in stands]
        if place == goal:
            return legal, places
        way = _next_on_the_way(beside, place, goal)
        if way is None and stands and stands[0] >= 0:
            way = places + 1 if stands[0] == place else _next_on_the_way(beside, place, stands[0])
        return legal, places if way is None else way

    def _state(self, obs: Obs) -> NDArray[np.int64]:
        """Index of the block's state [N]."""
        found = np.zeros(len(obs), dtype=np.int64)
        for i, state in enumerate(self.chart.states):
            if state.axis:
                home = self.spec.block_home["xyz".index(state.axis)] / self.spec.cell
                moved = self._read(obs, f"block_{state.axis}")[:, 0] - home
                found[moved * np.sign(state.moved) > abs(state.moved)] = i
        return found

    def _nearest(self, points: Floats, allowed: NDArray[np.bool_] | bool = True) -> NDArray[np.int64]:
        """Index of the allowed [N, places] place whose square is nearest to each point [N, 2]."""
        outside = np.maximum(np.abs(points[:, None] - self._centres) - 0.5, 0.0)  # [N, places, 2]
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


def _in_words(place: str) -> str:
    return f"{'in' if place.endswith(('corner', 'middle')) else 'on'} the {place}"


def _options(spec: MazeSpec, chart: Chart) -> OptionSpace:
    far = 15 if spec.robot.name == "point" else 60  # steps from a place to the next one, with room to spare
    goto = [Option(f"goto:{place}", f"go to the {place}", far) for place in chart.places.values()]
    pushes = [Option(f"push:{push.direction}", push.words, 2 * far) for push in chart.pushes]
    return OptionSpace([*goto, Option("goto:goal", "go straight to the goal", 2 * far), *pushes])


def _next_on_the_way(beside: NDArray[np.bool_], start: int, end: int) -> int | None:
    """The first step of a shortest way, or None if there is no way."""
    following, queue = {end: end}, deque([end])
    while queue:
        place = queue.popleft()
        for other in np.flatnonzero(beside[place]).tolist():
            if other not in following:
                following[other] = place
                queue.append(other)
    return following.get(start)

"""The simulator of grids with missions: the engine's rules, and BabyAI's verifier after each step."""

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from preceptor.envs.gridworld.cells import COLOR_SHIFT, EMPTY
from preceptor.envs.gridworld.engine import begin
from preceptor.envs.gridworld.simulator import GridSimulator
from preceptor.envs.missions.levels import ABSENT, BEGAN, DONE, PICKED, UNDER, WORDS, MissionPool, joined, strip_columns
from preceptor.envs.missions.verifier import Progress, front, verify
from preceptor.envs.vector import Outcome, State


class MissionSimulator(GridSimulator):
    """N grids of a pool whose levels have missions; observations as in `envs.missions.levels`.

    Args:
        pool: The levels.
        num_envs: N.
        name: Of the task.
    """

    def __init__(self, pool: MissionPool, num_envs: int, name: str) -> None:
        spec = pool.spec
        super().__init__(spec, num_envs, copy=False)
        width, height, columns = spec.width, spec.height, strip_columns(spec.width)
        self.observation_space = spaces.Box(0, 255, (width, height + columns, 4), np.uint8)
        self.name, self._pool, self._missions = name, pool, pool.missions
        self._strip = np.zeros((num_envs, width * columns * 4), np.uint8)
        self._before = np.zeros((num_envs, 2), np.int64)
        self._progress = Progress(
            marks=np.zeros((num_envs, width, height), np.uint8),
            places=np.zeros((num_envs, width, height), np.uint8),
            carried_marks=np.zeros(num_envs, np.uint8),
            picked=self._strip[:, PICKED],
            done=self._strip[:, DONE],
            verified=np.zeros((num_envs, 4), np.bool_),
        )

    def begin(self, rows: NDArray[np.int64], level_seeds: NDArray[np.int64]) -> None:
        """Start episodes of the level seeds, which are made if need be."""
        self._pool.need(level_seeds)
        begin(self._rules, self.level_spec.pool, self._grids, self._cells, rows, level_seeds)
        level = level_seeds - self.level_spec.pool.first
        self._grids["carried"][rows] = self._missions.carried[level]
        self._progress.marks[rows], self._progress.places[rows] = (
            self._missions.marks[level],
            self._missions.places[level],
        )
        self._progress.carried_marks[rows] = self._missions.carried_marks[level]
        self._progress.verified[rows] = False
        self._strip[rows] = 0
        self._strip[rows, BEGAN] = self.level_spec.pool.pose[level]
        self._strip[rows, DONE] = ABSENT * (self._missions.verbs[level] < 0)
        self._strip[rows, WORDS] = self._missions.words[level]
        self._see_anew(rows)

    def step(self, actions: NDArray[np.int64]) -> Outcome:
        """See `Simulator`."""
        front(self._grids, self._cells, self._before)
        outcome = super().step(actions)
        ends = np.stack(outcome[1:])
        played = self._grids, self._cells, np.asarray(actions, np.int64), self._before, self._progress
        verify(self._missions, self.level_spec.pool.first, *played, outcome.reward, ends)
        cells, each = self._cells, np.arange(self.num_envs)
        under = cells[each, self._grids["x"], self._grids["y"]].astype(np.int64)
        self._strip[:, UNDER] = np.where(under == EMPTY, 0, (under >> COLOR_SHIFT & 7) + 1)[:, None]
        return Outcome(outcome.reward, *ends)

    def observe(self) -> NDArray[np.uint8]:
        """Observations [N, W, H + S, 4]."""
        return joined(self._image, self._strip)

    def arrays(self) -> State:
        """Everything that the future depends on."""
        progress = self._progress._asdict()
        return super().arrays() | {"strip": self._strip} | {name: progress[name] for name in _FOLLOWED}

    def set_state(self, state: State) -> None:
        """See `Simulator`; a run that is resumed has made none of the levels yet."""
        super().set_state(state)
        self._pool.need(self.level_seed)


_FOLLOWED = ("marks", "places", "carried_marks", "verified")  # the rest of `Progress` is in the strip

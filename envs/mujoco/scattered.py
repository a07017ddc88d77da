"""The mazes in states at random, in which controllers are distilled where nothing scripted can walk."""

import numpy as np
from numpy.typing import NDArray

from preceptor.envs.drawn import Drawn
from preceptor.envs.mujoco.mazes import TIME_SCALE
from preceptor.envs.mujoco.simulator import MazeSimulator
from preceptor.envs.mujoco.tasks import MazeTask, Obs
from preceptor.envs.vector import Simulator

# Deviations of the tilt and of all speeds, most of the height and of what a joint is bent; radians, metres, seconds
_TILT, _FAST, _LIFTED, _BENT = 0.2, 2.0, 0.4, 1.3


class ScatteredMaze(MazeTask):
    """A maze of the same scenes and options, in which the robot is wherever it can be, in any pose and at any speed.

    Physics has no part in it: bodies may touch walls. What a teacher is asked depends on places alone, and a
    controller that has seen all poses learns to look at places, too.
    """

    def simulator(self, num_envs: int, render_mode: str | None = None) -> Simulator:
        """Environments of one step; actions do nothing."""
        return Drawn(MazeSimulator(self.spec, 1), num_envs, self.drawn)

    def skill(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.float32]:
        """Nothing: actions of zero [N, A]."""
        return np.zeros((len(obs), self.num_actions), np.float32)

    def drawn(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """An observation [D]: block, place, goal, time, pose and speed at random."""
        spec = self.spec
        values = {name: _FAST * rng.standard_normal() for name in spec.robot.velocities}
        values |= {name: rng.uniform(-_BENT, _BENT) for name in spec.robot.positions}
        half = rng.uniform(-np.pi, np.pi) / 2
        turned = np.array([np.cos(half), *(_TILT * rng.standard_normal(2)), np.sin(half)])
        values |= zip(("qw", "qx", "qy", "qz"), turned / np.linalg.norm(turned), strict=True)
        values["z"] = spec.start_height + rng.uniform(-_LIFTED, _LIFTED)
        values["time"] = TIME_SCALE * rng.integers(spec.horizon)
        goal = rng.uniform(*(spec.train_goals if rng.random() < 0.5 else spec.eval_goals))
        values |= {f"goal_{axis}": value for axis, value in zip("xyz", goal, strict=False)}
        values |= self._drawn_block(rng)
        obs = np.array([values.get(name, 0.0) for name in spec.observation_names], np.float32)
        state = self._state(obs[None])[0]
        cell = self._centres[rng.choice(np.flatnonzero(self._open[state]))]
        obs[[self._at["x"], self._at["y"]]] = spec.cell * (cell + rng.uniform(-0.5, 0.5, size=2))
        return obs

    def _drawn_block(self, rng: np.random.Generator) -> dict[str, float]:
        """Where the block is, in metres: moved as far along an axis as one of its states says, or farther, or less."""
        spec, state = self.spec, self.chart.states[rng.integers(len(self.chart.states))]
        moved, enough = dict.fromkeys("xyz", 0.0), abs(state.moved)
        if state.axis:
            far = 0.5 if state.axis == "z" else 1.0  # chasms are half as deep as cells are wide
            least, most = (enough, far) if rng.random() < 0.7 else (0.0, enough)
            moved[state.axis] = np.sign(state.moved) * rng.uniform(least, most)
        if state.axis == "z":
            moved["y"] = 1.0  # it falls into the chasm, which is one cell on
        return {f"block_{axis}": home + spec.cell * moved[axis] for axis, home in spec.block_home.items()}

"""The rules of Rescue World, for N environments of one map."""

from typing import Final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from preceptor.envs.rescue.rendering import draw
from preceptor.envs.rescue.specs import AIMED, COLUMN, NUM_ACTIONS, ROW, SIZE, RescueSpec
from preceptor.envs.vector import Outcome, Simulator, State
from preceptor.ground.level_seeds import random_bits

FOUND, STEP, DANGER = 1000.0, -1.0, -100.0  # rewards
_STATE: Final = ("level_seed", "cell", "left", "order", "age")
_ONE_HOT = np.eye(SIZE, dtype=np.float32)
_PLACES: Final = np.concatenate([_ONE_HOT[COLUMN], _ONE_HOT[ROW]], axis=1)  # [C, 2 * SIZE]


class RescueSimulator(Simulator):
    """The rules are those of HALO's Rescue World (see `specs.py`); see `RescueTask` for observations.

    One target is *due* at a time, and reaching another one changes nothing. Reaching the one that is due gives 1000 and
    makes the next one due; entering danger gives -100, unless the target that is due lies there; all else gives -1.
    At the edge an agent is pushed back into its cell, which counts as entering it; into an obstacle it does not go.
    Once all targets are found the episode terminates: nothing changes any more, and rewards are zero. The horizon
    truncates it.

    Infos hold `option`, int64 [N]: the target that is due in the state that the observations show, -1 where all are
    found. It is the truth about demonstrations, and no student or annotator sees it.

    Attributes:
        spec: The map.
        cell: int64 [N], where each agent is.
        left: bool [N, n], targets still to be found.
        order: int64 [N, n], the targets as they are due.
        age: int64 [N], steps since each episode began.

    Args:
        spec: The map.
        num_envs: N.
    """

    fps = 6
    forgiving = True

    def __init__(self, spec: RescueSpec, num_envs: int) -> None:
        targets = len(spec.targets)
        self.spec, self.name, self.num_envs, self.max_steps = spec, spec.name, num_envs, spec.horizon
        self.observation_space = gym.spaces.Box(0.0, 1.0, (2 * SIZE + targets,), np.float32)
        self.action_space = gym.spaces.Discrete(NUM_ACTIONS)
        self.level_seed = np.full(num_envs, -1, dtype=np.int64)
        self.cell, self.age = np.zeros((2, num_envs), dtype=np.int64)
        self.left = np.zeros((num_envs, targets), dtype=np.bool_)
        self.order = np.zeros((num_envs, targets), dtype=np.int64)

    def begin(self, rows: NDArray[np.int64], level_seeds: NDArray[np.int64]) -> None:
        """Start episodes: the level seed decides where, and in random order also in which order targets are due."""
        spec, targets = self.spec, len(self.spec.targets)
        bits = random_bits(level_seeds, 1 + targets)
        self.level_seed[rows], self.age[rows], self.left[rows] = level_seeds, 0, True
        self.cell[rows] = spec.starts[bits[:, 0] % np.uint64(len(spec.starts))]
        # The ranks of independent numbers are a permutation, and every one as likely as another.
        self.order[rows] = bits[:, 1:].argsort(axis=1) if spec.random_order else np.arange(targets)

    @property
    def due(self) -> NDArray[np.int64]:
        """The target that is due [N], -1 where all are found."""
        found = (~self.left).sum(axis=1)
        following = np.minimum(found, self.left.shape[1] - 1)
        return np.where(self.left.any(axis=1), self.order[np.arange(len(found)), following], -1)

    def info(self) -> dict[str, NDArray[np.int64]]:
        """See the class."""
        return {"option": self.due}

    def step(self, actions: NDArray[np.int64]) -> Outcome:
        """Act [N], as `specs.MOVES` says. Raises `ValueError` for an action that does not exist."""
        spec, actions = self.spec, np.asarray(actions)
        exists = np.issubdtype(actions.dtype, np.integer) and ((actions >= 0) & (actions < NUM_ACTIONS)).all()
        if actions.shape != self.cell.shape or not exists:
            raise ValueError(f"actions must be {len(self.cell)} integers in [0, {NUM_ACTIONS})")
        due, goes_on = self.due, self.left.any(axis=1)
        blocked = spec.is_obstacle[AIMED[self.cell, actions]]
        self.cell = np.where(goes_on, spec.reached[self.cell, actions], self.cell)
        found = goes_on & (self.cell == np.array(spec.targets)[due])
        hurt = ~blocked & spec.is_danger[self.cell]
        reward = np.select([~goes_on, found, hurt], [0.0, FOUND, DANGER], STEP)
        self.left[found, due[found]] = False
        self.age += goes_on
        terminated = self.left.sum(axis=1) == 0
        return Outcome(reward, terminated, ~terminated & (self.age >= spec.horizon), terminated.copy())

    def observe(self) -> NDArray[np.float32]:
        """Observations float32 [N, 2 * SIZE + n]."""
        return np.concatenate([_PLACES[self.cell], self.left], axis=1, dtype=np.float32)

    def arrays(self) -> State:
        """Everything that the future depends on."""
        return {name: getattr(self, name) for name in _STATE}

    def render(self, n: int = 0) -> NDArray[np.uint8]:
        """The map from above, uint8 [400, 400, 3], without a hint which target is due."""
        return draw(self.spec, int(self.cell[n]), self.left[n])

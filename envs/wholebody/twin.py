"""The kinematic twin: the robot's geometry without its dynamics, for N environments at once."""

from typing import Final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from preceptor.envs.vector import Outcome, Simulator, State
from preceptor.envs.wholebody.body import (
    CLEARANCE,
    GRIP,
    HIGH,
    LOW,
    OBSERVATION_NAMES,
    POSTURE,
    STEP,
    driven,
    observation,
    progress,
    seen_from,
)
from preceptor.envs.wholebody.drawing import draw
from preceptor.ground.level_seeds import random_bits

CLOSED = 0.9  # a gripper that is more closed holds what is in the hand
_DRAWN_LOW: Final = np.array([1.3, -1.0, 0.35, 0.0, 0.0, -0.5, -1.8, 0.0])  # distance, bearing, height; posture
_DRAWN_HIGH: Final = np.array([2.1, 1.0, 1.35, 0.8, 0.6, 1.0, -0.6, 0.3])
_STATE: Final = ("level_seed", "pose", "posture", "target", "flags", "age")


def drawn(level_seeds: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What levels [M] begin with: where the object is [M, 3], and the posture [M, 5]."""
    share = random_bits(level_seeds, len(_DRAWN_LOW)) / 2.0**64
    distance, bearing, height, *posture = (_DRAWN_LOW + share * (_DRAWN_HIGH - _DRAWN_LOW)).T
    return np.stack([distance * np.cos(bearing), distance * np.sin(bearing), height], 1), np.stack(posture, 1)


class TwinSimulator(Simulator):
    """The rules: actions move base and joints by their steps, and closing the gripper on the object is success.

    Args:
        num_envs: N.
        max_steps: T, after which an episode is truncated.

    Attributes:
        pose: float64 [N, 3], x, y and heading of the base.
        posture: float64 [N, 5].
        target: float64 [N, 3], where the object is.
        flags: bool [N, 3], what was achieved (`body.progress`).
        age: int64 [N], steps since each episode began.
    """

    name = "WholeBodyTwin"
    max_steps: int
    forgiving = True

    def __init__(self, num_envs: int, max_steps: int = 60) -> None:
        self.num_envs, self.max_steps = num_envs, max_steps
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (len(OBSERVATION_NAMES),), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (len(STEP),), np.float32)
        self.level_seed, self.age = np.full(num_envs, -1, np.int64), np.zeros(num_envs, np.int64)
        self.pose, self.target, self.posture = (np.zeros((num_envs, size)) for size in (3, 3, 5))
        self.flags = np.zeros((num_envs, 3), np.bool_)

    def begin(self, rows: NDArray[np.int64], level_seeds: NDArray[np.int64]) -> None:
        """Start episodes: the base at the origin, the posture and the object as the level has them."""
        self.level_seed[rows], self.age[rows], self.pose[rows], self.flags[rows] = level_seeds, 0, 0.0, False
        self.target[rows], self.posture[rows] = drawn(level_seeds)

    def step(self, actions: NDArray[np.floating]) -> Outcome:
        """Act [N, 8]. Raises `ValueError` for actions that are not finite numbers of that shape."""
        actions = self.checked(actions)
        self.pose += driven(self.pose[:, 2], actions)
        away = self.pose[:, :2] - self.target[:, :2]
        distance = np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-9)
        self.pose[:, :2] += away / distance * np.maximum(CLEARANCE - distance, 0.0)
        self.posture = np.clip(self.posture + (np.clip(actions, -1, 1) * STEP)[:, POSTURE], LOW, HIGH)
        self.age += 1
        obs = self.observe()
        reward = progress(obs, self.flags)
        success = self.flags[:, 2] & (obs[:, GRIP] > CLOSED)
        return Outcome(reward + success, success, ~success & (self.age >= self.max_steps), success.copy())

    def observe(self) -> NDArray[np.float32]:
        """Observations float32 [N, 17]."""
        return observation(seen_from(self.pose, self.target), self.posture, self.flags, self.age / self.max_steps)

    def arrays(self) -> State:
        """Everything that the future depends on."""
        return {name: getattr(self, name) for name in _STATE}

    def render(self, n: int = 0) -> NDArray[np.uint8]:
        """The robot from the side and from above, uint8 [H, W, 3]."""
        return draw(self.pose[n], self.posture[n], self.target[n])

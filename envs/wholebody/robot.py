"""The robot in MuJoCo as a task: the twin's, but what is grasped has to be lifted, and can be knocked down."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from preceptor.envs.wholebody.body import BODY, DISTANCE, GRASP, GRIP, OBJECT, OFFSET, REACH, SEEN_OFFSET, joints_for
from preceptor.envs.wholebody.model import BALL, SPREAD
from preceptor.envs.wholebody.simulator import WholeBodySimulator
from preceptor.envs.wholebody.tasks import Obs, WholeBodyTwin, shares

ARM: Final = slice(5, 7)  # of an action
_TUCKED: Final = (1.7, -2.4)  # angle of the upper arm over the horizon, and elbow: the hand is near the shoulder
_BACK = 0.13  # how far before the object the hand waits until it is in line with it, metres
_IN_LINE, _OUT_OF_LINE = 0.02, 0.045  # metres off the line: it goes on, it waits
_UNDER, _BEYOND = 0.045, 0.25  # a hand so far under the object, and no farther from it, may be under the tray
_BETWEEN = 0.04  # an object that is so near the middle of the hand is between the fingers
_GRIPPED = 0.42  # the fingers are closed so far at least when they hold the object
_RISE = 0.01  # metres in a step by which an object counts as moved up


def _between(obs: Obs) -> NDArray[np.bool_]:
    return np.linalg.norm(obs[:, OFFSET], axis=1) < SEEN_OFFSET * _BETWEEN


def _under(obs: Obs) -> NDArray[np.bool_]:
    return (obs[:, OFFSET][:, 2] > SEEN_OFFSET * _UNDER) & (obs[:, OFFSET][:, 0] < SEEN_OFFSET * _BEYOND)


class WholeBody(WholeBodyTwin):
    """The robot in MuJoCo; observations, actions, groups and stages are the twin's.

    Success is to hold the object with both fingers 5 cm over its place for three steps; it ends an episode, and so does
    an object that falls down. See `simulator.WholeBodySimulator`.

    Args:
        groups: How finely the body is divided: 3, 4, 5 or 6 groups.
        max_steps: T, after which an episode is truncated.
    """

    goal = "Drive to the object, reach for it, grasp it and lift it."
    rules = (
        "You are a robot with a base on wheels, a torso that can be lifted and pitched, an arm and a gripper. A ball "
        "lies on a post of some height. First stand in front of the post and face the ball, then bring the torso to "
        "the height of the ball, then reach for it with an open gripper without knocking it down, and then close the "
        "gripper and lift the ball."
    )

    grip_of_object = 1 - BALL / SPREAD

    def __init__(self, groups: int = 4, max_steps: int = 100) -> None:
        super().__init__(groups, max_steps)

    def simulator(self, num_envs: int, render_mode: str | None = None) -> WholeBodySimulator:
        """The rules of N environments."""
        return WholeBodySimulator(num_envs, self.max_steps)

    def option_achieved(self, before: Obs, after: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """As of the twin, but to grasp is to hold the object and move it up."""
        up = after[:, OBJECT][:, 2] - before[:, OBJECT][:, 2] > _RISE
        held = up & (after[:, GRIP] > _GRIPPED) & (self.fact_codes(after) // 2 == GRASP)
        return np.where(option == GRASP, held, super().option_achieved(before, after, option))

    def skill(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.float32]:
        """Actions [N, 8] of the scripted executor of each option: inverse kinematics, base before torso before arm."""
        action, option = super().skill(obs, option), np.asarray(option)
        between = _between(obs)
        action[:, ARM] = shares(self._arm(obs, option) - obs[:, BODY][:, 2:4], ARM)
        action[_under(obs), 0] = -1  # else the hand would push against the tray
        action[:, 7] = np.where((option == GRASP) & between, 1.0, -1.0)
        holds = (option == GRASP) & between & (obs[:, GRIP] > _GRIPPED)
        action[holds] = (0, 0, 0, 1, 0, 0, 0, 1)
        return action

    def _arm(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.float64]:
        """Shoulder and elbow [N, 2] that each option wants: tucked, in line before the object, or around it."""
        posture, distance = np.asarray(obs[:, BODY], np.float64), np.asarray(obs[:, DISTANCE], np.float64)
        height, pitch = np.asarray(obs[:, OBJECT], np.float64)[:, 2], posture[:, 1]
        shoulder, elbow = joints_for(distance, height, posture)
        slope = shoulder - pitch + elbow  # of the forearm, once the hand is around the object
        offset = obs[:, OFFSET] / SEEN_OFFSET
        across = np.cos(slope) * offset[:, 2] - np.sin(slope) * offset[:, 0]
        off = np.hypot(across, offset[:, 1])
        back = _BACK * np.clip((off - _IN_LINE) / (_OUT_OF_LINE - _IN_LINE), 0, 1) * ~_between(obs)
        reach = joints_for(distance - back * np.cos(slope), height - back * np.sin(slope), posture)
        tucked = _TUCKED[0] + pitch, np.full_like(pitch, _TUCKED[1])
        reaches = (option >= REACH) & ~_under(obs)
        return np.where(reaches[:, None], np.stack(reach, 1), np.stack(tucked, 1))

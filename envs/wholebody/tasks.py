"""Whole-body tasks as teachers, controllers and hierarchies see them: four stages, and the groups of the body.

A scene is a stage and whether the gripper is open; its code is `2 * stage + closed`.
"""

from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preceptor.envs.task import GoalSpace, Option, OptionSpace, TableTask
from preceptor.envs.vector import Simulator
from preceptor.envs.wholebody.body import (
    ACTION_NAMES,
    BEARING,
    BODY,
    DISTANCE,
    FLAGS,
    GRASP,
    GRIP,
    NEAR,
    OBJECT,
    OBSERVATION_NAMES,
    OPEN,
    POSTURED,
    REACH,
    STAND,
    STANDOFF,
    STEP,
    joints_for,
    wanted_torso,
)
from preceptor.envs.wholebody.twin import TwinSimulator

Obs = NDArray[np.floating]

_STAGES: Final = (
    ("far", "The base is not yet where the object can be reached from."),
    ("standing", "The base stands where the object can be reached from; the torso has not had the right posture."),
    ("postured", "Base and torso are ready for the object; the hand is not around it."),
    ("around", "The hand is around the object."),
)
_STAGE, _CLOSED = np.divmod(np.arange(2 * len(_STAGES)), 2)  # of each code
_DONE: Final = np.stack([_STAGE > STAND, _STAGE > POSTURED, _STAGE == GRASP, _STAGE != GRASP], 1)  # [codes, K]
_GAIN = 0.9  # share of what is left that the expert does in a step
_GROUPINGS: Final = {
    3: {"base": (0, 1, 2), "torso": (3, 4), "arm": (5, 6, 7)},
    4: {"base": (0, 1, 2), "torso": (3, 4), "arm": (5, 6), "grip": (7,)},
    5: {"drive": (0, 1), "yaw": (2,), "torso": (3, 4), "arm": (5, 6), "grip": (7,)},
    6: {"drive": (0, 1), "yaw": (2,), "torso": (3, 4), "shoulder": (5,), "elbow": (6,), "grip": (7,)},
}
_SCALE: Final = np.array([1.0, 1.0, 0.5, 1.0, 0.5, 0.4, 0.4, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
_GOALS: Final = (DISTANCE, BEARING, 5, 6, 10, 11, 12, GRIP)  # dimensions of goals, by their place in an observation


def shares(left: NDArray[np.floating], actions: slice = slice(None)) -> NDArray[np.floating]:
    """The expert's actions [N, A] for what is left to do [N, A], of all actions or of some."""
    return np.clip(_GAIN * left / STEP[actions], -1, 1)


class WholeBodyTwin(TableTask):
    """The kinematic twin; see `preceptor.envs.task.Task` for the methods. What is its own:

    Observations are float32 [N, 17] (`body.OBSERVATION_NAMES`), actions float32 [N, 8] (`body.ACTION_NAMES`): shares of
    what a group can do in a step. An episode is rewarded with 0.25 for standing well, 0.25 for the posture, each once,
    and 1 for success, which ends it.

    Args:
        groups: How finely the body is divided: 3, 4, 5 or 6 groups.
        max_steps: T, after which an episode is truncated.
    """

    goal = "Drive to the object, reach for it and take it."
    rules = (
        "You are a robot with a base on wheels, a torso that can be lifted and pitched, an arm and a gripper. An "
        "object lies at some height on a narrow table. First stand in front of the table and face the object, then "
        "bring the torso to the height of the object, then reach for it with an open gripper, and then grasp it."
    )
    options = OptionSpace(
        [
            Option("stand", "drive to where the object can be reached from", timeout=40),
            Option("posture", "bring the torso to the height of the object", timeout=25),
            Option("reach", "open the gripper and put it around the object", timeout=25),
            Option("grasp", "close the gripper and take the object", timeout=20),
        ]
    )
    goal_space = GoalSpace(tuple(OBSERVATION_NAMES[i] for i in _GOALS), tuple(_SCALE[list(_GOALS)].tolist()), _GOALS)
    observation_shape = (len(OBSERVATION_NAMES),)
    observation_scale = tuple(_SCALE.tolist())
    num_actions = len(ACTION_NAMES)
    continuous = True
    legal_of = ~_DONE
    expert_of = _STAGE
    grip_of_object = 1.0  # how far the gripper is closed when it holds the object
    tells_time = True

    def __init__(self, groups: int = 4, max_steps: int = 60) -> None:
        self.max_steps, self.action_groups = max_steps, MappingProxyType(_GROUPINGS[groups])

    def simulator(self, num_envs: int, render_mode: str | None = None) -> Simulator:
        """The rules of N environments."""
        return TwinSimulator(num_envs, self.max_steps)

    def fact_codes(self, obs: Obs) -> NDArray[np.int64]:
        """One integer per observation [N]; equal integers mean equal facts."""
        done = obs[:, FLAGS] > 0.5
        return 2 * np.select([done[:, 2], done[:, 1], done[:, 0]], [GRASP, REACH, POSTURED], STAND) + (
            obs[:, GRIP] >= OPEN
        )

    def option_done(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the stage that each option [N] is for has passed, or has not come (to grasp)."""
        return _DONE[self.fact_codes(obs), option]

    def option_achieved(self, before: Obs, after: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the step between two observations ended the stage of each option [N]; to grasp ends the episode."""
        start, end = self.fact_codes(before) // 2, self.fact_codes(after) // 2
        held = (end == GRASP) & (after[:, GRIP] > before[:, GRIP])
        return np.where(option == GRASP, held, (start <= option) & (end > option))

    def ground(self, obs: Obs, option: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Where each option [N] leads in the dimensions of `goal_space` [N, 8], and how near it has to come."""
        option = np.asarray(option)[:, None]
        mean = np.array(obs[:, list(_GOALS)], np.float32)
        lift, pitch = wanted_torso(obs[:, OBJECT][:, 2])
        wanted = np.zeros_like(mean)
        wanted[:, 0], wanted[:, 2], wanted[:, 3] = STANDOFF, lift, pitch
        wanted[:, 7] = self.grip_of_object * (option[:, 0] == GRASP)
        until = np.array([0, 0, 1, 1, 2, 2, 2, 2])  # the option from which on a dimension matters
        mean = np.where(option >= until, wanted, mean)
        return mean, np.broadcast_to(np.float32(NEAR), mean.shape).copy()

    def skill(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.float32]:
        """Actions [N, 8] of the scripted executor of each option: inverse kinematics, base before torso before arm."""
        posture, place = np.asarray(obs[:, BODY], np.float64), np.asarray(obs[:, OBJECT], np.float64)
        distance, bearing = obs[:, DISTANCE], obs[:, BEARING]
        lift, pitch = wanted_torso(place[:, 2])
        away = distance - STANDOFF
        # The hand is brought to where the object will be once base and torso have moved as they are about to.
        shoulder, elbow = joints_for(distance, place[:, 2], posture)
        grip = np.asarray(option == GRASP, np.float64)
        left = [away * np.cos(bearing), away * np.sin(bearing), bearing]
        left += [want - now for want, now in zip((lift, pitch, shoulder, elbow, grip), posture.T, strict=True)]
        action, option = shares(np.stack(left, 1)), np.asarray(option)
        action[option == GRASP, 7] = 1.0  # with all its strength
        action[option < REACH, 5:] = 0.0  # base and torso alone, which begin together since the torso is slow
        return action.astype(np.float32)

    def words(self, code: int) -> tuple[tuple[str, ...], str]:
        """The facts of a code, and the English for them."""
        (stage, how), closed = _STAGES[_STAGE[code]], bool(_CLOSED[code])
        state = "closed" if closed else "open"
        return (f"stage={stage}", f"gripper={state}"), f"{how} The gripper is {state}."


def make_task(name: str) -> Any:
    """The task of a name."""
    if name == "WholeBody":
        from preceptor.envs.wholebody.robot import WholeBody  # which needs MuJoCo

        return WholeBody()
    return WholeBodyTwin()

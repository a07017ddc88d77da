"""Pick and place as teachers, controllers and hierarchies see it: four options over Gymnasium-Robotics' arm.

A scene is a stage of the grasp and whether the block is at its goal; its code is `2 * stage + at goal`. All lengths are
in metres. The block is a cube of 5 cm; the fingers are 10 cm apart when open, and 4.8 cm when they hold it.
"""

from functools import partial
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from preceptor.envs.fetch.simulator import BLOCK, FINGERS, GOAL, GRIPPER, OBSERVATION_NAMES, OFFSET, make_fetch
from preceptor.envs.gym_tasks import GymSimulator
from preceptor.envs.task import GoalSpace, Option, OptionSpace, TableTask

Obs = NDArray[np.floating]

APPROACH, GRASP, TRANSPORT, HOLD = range(4)  # the options
AWAY, ABOVE, AROUND, HOLDING = range(4)  # the stages
_STAGES: Final = (
    ("away", "The gripper is away from the block."),
    ("above", "The gripper is open and right above the block."),
    ("around", "The open gripper is around the block."),
    ("holding", "The gripper holds the block."),
)
_PLACES: Final = (("elsewhere", "The block is not at its goal."), ("goal", "The block is at its goal."))

_NEAR = 0.02  # between the middle of the gripper and that of the block
_OPEN, _FIRM = 0.07, 0.055  # fingers farther apart are open, and nearer ones hold what is between them
_CEILING = 0.09  # height over the block from which the gripper can go straight down
_AT_GOAL = 0.04  # the original's threshold is 5 cm: a centimetre is left for what still moves
_PREGRASP: Final = np.array([0.0, 0.0, 0.06])  # above the block
_CLEAR = 0.05  # height over the block at which open fingers pass over it
_CLOSE = 0.015  # near enough to close the fingers
_GAIN = 10.0  # shares of an action per metre: half of what is left, in a step
_PRECISION = 0.02  # how near to where it leads an option has to come
_REACH = 0.15  # half the side of the square in which the original puts blocks and goals

_SCALE: Final = np.full(len(OBSERVATION_NAMES), _REACH)
for _where, _size in ((OFFSET, 0.05), (FINGERS, 0.05), (slice(11, 14), 1.0), (slice(14, 25), 0.02)):
    _SCALE[_where] = _size
_POSITIONS: Final = tuple(range(6))  # of gripper and block

_STAGE, _THERE = np.divmod(np.arange(2 * len(_STAGES)), 2)  # of each code
# When options are over [codes, K]: reached, or no longer possible. Holding still is always possible, and never over
# before the clock says so: at the wrong time, that time is lost.
_GRASPED = (_STAGE == HOLDING) | (_STAGE == AWAY)
_CARRIED = (_STAGE != HOLDING) | (_THERE == 1)
_DONE: Final = np.stack([_STAGE == ABOVE, _GRASPED, _CARRIED, np.zeros_like(_GRASPED)], axis=1)


def stages(obs: Obs) -> NDArray[np.int64]:
    """Stage of the grasp [N] in observations [N, 28].

    `holding`: the fingers are closed upon the block; `around`: the block is between them; `above`: they are open, and
    over it, so that the gripper can go straight down; `away`: none of these.
    """
    offset, apart = obs[:, OFFSET], _opening(obs)
    around = np.linalg.norm(offset, axis=1) < _NEAR
    over = (np.linalg.norm(offset[:, :2], axis=1) < _NEAR) & (offset[:, 2] < 0) & (offset[:, 2] > -_CEILING)
    return np.select([around & (apart < _FIRM), around, over & (apart > _OPEN)], [HOLDING, AROUND, ABOVE], AWAY)


def at_goal(obs: Obs) -> NDArray[np.bool_]:
    """Whether the block is within 4 cm of its goal [N]."""
    return np.linalg.norm(obs[:, GOAL] - obs[:, BLOCK], axis=1) < _AT_GOAL


def _opening(obs: Obs) -> NDArray[np.floating]:
    """How far the fingers are apart [N]."""
    return obs[:, FINGERS].sum(axis=1)


class FetchTask(TableTask):
    """Pick and place; see `preceptor.envs.task.Task` for the methods. What is its own:

    Observations are float32 [N, 28] (`OBSERVATION_NAMES`), actions float32 [N, 4]: three shares of 5 cm by which the
    gripper is moved in a step, and what the fingers do, 1 to open and -1 to close them. What an episode is, and
    success, is the original's (`simulator.FlatFetch`). `ground` speaks of where gripper and block are. The goal's place
    is what a low level that follows other goals does not see.
    """

    name = "FetchPickAndPlace"
    goal = "Carry the block to its goal and keep it there."
    rules = (
        "You are a robot arm with a gripper over a table. A block lies on the table, and its goal is a place on the "
        "table or in the air above it. To move the block, open the gripper above it, go down and close the gripper "
        "around it, then carry it. A block that is let go falls. At the end of the episode the block must be at its "
        "goal: once it is there, hold still until then."
    )
    options = OptionSpace(
        [
            Option("approach", "open the gripper and move it above the block", timeout=15),
            Option("grasp", "go down to the block and close the gripper", timeout=15),
            Option("transport", "carry the block to its goal", timeout=20),
            Option("hold", "hold still", timeout=10),
        ]
    )
    goal_space = GoalSpace(OBSERVATION_NAMES[:6], (_REACH,) * 6, _POSITIONS)
    observation_shape = (len(OBSERVATION_NAMES),)
    observation_scale = tuple(_SCALE.tolist())
    hidden_from_low_level = tuple(range(len(OBSERVATION_NAMES))[GOAL])
    num_actions = 4
    action_groups = MappingProxyType({"arm": (0, 1, 2), "gripper": (3,)})
    continuous = True
    legal_of = ~_DONE
    expert_of = np.select([_THERE == 1, _STAGE == HOLDING, _STAGE == AWAY], [HOLD, TRANSPORT, APPROACH], GRASP)

    def simulator(self, num_envs: int, render_mode: str | None = None) -> GymSimulator:
        """The rules of N environments; a step is 2 ms of simulation, beside which a loop costs nothing."""
        return GymSimulator(self.name, partial(make_fetch, render_mode), num_envs)

    def fact_codes(self, obs: Obs) -> NDArray[np.int64]:
        """One integer per observation [N]; equal integers mean equal facts."""
        return 2 * stages(obs) + at_goal(obs)

    def option_done(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each option [N] is over: reached, or no longer possible."""
        return _DONE[self.fact_codes(obs), option]

    def option_achieved(self, before: Obs, after: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the step between two observations [N, 28] got where the option [N] leads, or kept the block there.

        Three options are for getting somewhere, and the step which gets there achieves them; holding still is for
        keeping the block at its goal, and every step that keeps it there does so.
        """
        start, end = stages(before), stages(after)
        there_before, there = at_goal(before), at_goal(after)
        reached = [
            (start != ABOVE) & (end == ABOVE),
            (start != HOLDING) & (end == HOLDING),
            (end == HOLDING) & ~there_before & there,
            there_before & there,
        ]
        return np.choose(option, reached)

    def ground(self, obs: Obs, option: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Where each option [N] leads gripper and block, [N, 6], and 2 cm [N, 6] for the scale."""
        gripper, block, goal = obs[:, GRIPPER], obs[:, BLOCK], obs[:, GOAL]
        ways = [(block + _PREGRASP, block), (block, block), (goal, goal), (gripper, block)]
        mean = np.choose(np.asarray(option)[:, None], [np.concatenate(way, axis=1) for way in ways]).astype(np.float32)
        return mean, np.full_like(mean, _PRECISION)

    def skill(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.float32]:
        """Actions [N, 4] of the scripted executor of each option: proportional control, from the observation alone."""
        option, offset = np.asarray(option), obs[:, OFFSET]
        near = np.linalg.norm(offset, axis=1) < _CLOSE
        up, down = offset + _PREGRASP, offset.copy()
        up[-offset[:, 2] < _CLEAR, :2] = 0.0  # straight up first, lest the fingers push the block away
        down[(_opening(obs) <= _OPEN) & ~near, 2] = 0.0  # closed fingers would land on the block
        move = np.choose(option[:, None], [up, down, obs[:, GOAL] - obs[:, BLOCK], np.zeros_like(offset)])
        held = np.where(stages(obs) == HOLDING, -1.0, 0.0)  # what is held stays held
        fingers = np.choose(option, [1.0, np.where(near, -1.0, 1.0), -1.0, held])
        return np.column_stack([np.clip(_GAIN * move, -1, 1), fingers]).astype(np.float32)

    def words(self, code: int) -> tuple[tuple[str, ...], str]:
        """The facts of a code, and the English for them."""
        (stage, how), (place, where) = _STAGES[_STAGE[code]], _PLACES[_THERE[code]]
        return (f"gripper={stage}", f"block={place}"), f"{how} {where}"


def make_task(name: str) -> FetchTask:
    """The one task."""
    return FetchTask()

"""Pick and place as teachers, controllers and hierarchies see it: four options over Gymnasium-Robotics' arm.

A scene is a stage of the grasp and whether the block is at its goal; its code is `2 * stage + at goal`.
"""

from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from envs.fetch.simulator import make_fetch
from envs.fetch.skills import APPROACH, GRASP, HOLD, TRANSPORT, act, destinations
from envs.fetch.state import (
    ABOVE,
    AROUND,
    AWAY,
    BLOCK,
    GOAL,
    GRIPPER,
    HOLDING,
    OBSERVATION_NAMES,
    REACH,
    STAGES,
    Obs,
    at_goal,
    observation_scale,
    stages,
)
from envs.gym_tasks import GymSimulator
from envs.task import GoalSpace, Option, OptionSpace, TableTask

_PRECISION = 0.02  # metres: how near to where it leads an option has to come
_POSITIONS = (*range(len(OBSERVATION_NAMES))[GRIPPER], *range(len(OBSERVATION_NAMES))[BLOCK])
_WORDS: Final = {
    AWAY: "The gripper is away from the block.",
    ABOVE: "The gripper is open and right above the block.",
    AROUND: "The open gripper is around the block.",
    HOLDING: "The gripper holds the block.",
}
_PLACES: Final = (("elsewhere", "The block is not at its goal."), ("goal", "The block is at its goal."))

_STAGE, _THERE = np.divmod(np.arange(2 * len(STAGES)), 2)  # of each code
# When options are over [codes, K]: reached, or no longer possible. Holding still is always possible, and never over
# before the clock says so: at the wrong time, that time is lost.
_DONE: Final = np.stack(
    [
        _STAGE == ABOVE,
        (_STAGE == HOLDING) | (_STAGE == AWAY),
        (_STAGE != HOLDING) | (_THERE == 1),
        np.zeros_like(_STAGE, np.bool_),
    ],
    axis=1,
)


class FetchTask(TableTask):
    """Pick and place; see `envs.task.Task` for the methods. What is its own:

    Observations are float32 [N, 28] (`state.OBSERVATION_NAMES`), actions float32 [N, 4] (`skills`); what an episode is,
    and success, is the original's (`simulator.FlatFetch`). `ground` speaks of where gripper and block are, in metres.
    The goal's place is what a low level that follows other goals does not see.
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
    goal_space = GoalSpace(tuple(OBSERVATION_NAMES[i] for i in _POSITIONS), (REACH,) * len(_POSITIONS), _POSITIONS)
    observation_shape = (len(OBSERVATION_NAMES),)
    observation_scale = observation_scale()
    hidden_from_low_level = tuple(range(len(OBSERVATION_NAMES))[GOAL])
    num_actions = 4
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
        """Where each option [N] leads gripper and block, [N, 6] in metres, and 2 cm [N, 6] for the scale."""
        mean = destinations(obs, np.asarray(option)).astype(np.float32)
        return mean, np.full_like(mean, _PRECISION)

    def skill(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.float32]:
        """Actions [N, 4] of the scripted executor of each option."""
        return act(obs, np.asarray(option))

    def words(self, code: int) -> tuple[tuple[str, ...], str]:
        """The facts of a code, and the English for them."""
        stage, (place, said) = int(_STAGE[code]), _PLACES[_THERE[code]]
        return (f"gripper={STAGES[stage]}", f"block={place}"), f"{_WORDS[stage]} {said}"


def make_task(name: str) -> FetchTask:
    """The one task."""
    return FetchTask()

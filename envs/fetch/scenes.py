"""Pick and place in words: eight scenes, which options are legal and over in each, and what the expert chooses.

A scene is a stage of the grasp and whether the block is at its goal; its code is `2 * stage + at goal`, and everything
that depends on the scene alone is a table over codes.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from envs.fetch.state import ABOVE, AROUND, AWAY, HOLDING, STAGES, Obs, at_goal, stages
from envs.task import Option, OptionSpace, Scene

NAME: Final = "FetchPickAndPlace"
GOAL: Final = "Carry the block to its goal and keep it there."
RULES: Final = (
    "You are a robot arm with a gripper over a table. A block lies on the table, and its goal is a place on the table "
    "or in the air above it. To move the block, open the gripper above it, go down and close the gripper around it, "
    "then carry it. A block that is let go falls. At the end of the episode the block must be at its goal: once it is "
    "there, hold still until then."
)
OPTIONS: Final = OptionSpace(
    [
        Option("approach", "open the gripper and move it above the block", timeout=15),
        Option("grasp", "go down to the block and close the gripper", timeout=15),
        Option("transport", "carry the block to its goal", timeout=20),
        Option("hold", "hold still", timeout=10),
    ]
)
APPROACH, GRASP, TRANSPORT, HOLD = range(len(OPTIONS))

_WORDS: Final = {
    AWAY: "The gripper is away from the block.",
    ABOVE: "The gripper is open and right above the block.",
    AROUND: "The open gripper is around the block.",
    HOLDING: "The gripper holds the block.",
}
_PLACES: Final = {"elsewhere": "The block is not at its goal.", "goal": "The block is at its goal."}

_STAGE, _THERE = np.divmod(np.arange(2 * len(STAGES)), 2)  # of each code
# When options are over [codes, K]: reached, or no longer possible. Holding still is always possible, and never over
# before the clock says so: whoever does it at the wrong time loses that time.
_DONE: Final = np.stack(
    [
        _STAGE == ABOVE,
        (_STAGE == HOLDING) | (_STAGE == AWAY),
        (_STAGE != HOLDING) | (_THERE == 1),
        np.zeros_like(_STAGE, np.bool_),
    ],
    axis=1,
)
_LEGAL: Final = ~_DONE
# The expert's option [codes].
_EXPERT: Final = np.select(
    [_THERE == 1, _STAGE == HOLDING, _STAGE == AWAY],
    [HOLD, TRANSPORT, APPROACH],
    GRASP,
)


def codes(obs: Obs) -> NDArray[np.int64]:
    """Codes of the scenes [N] of observations [N, 28]."""
    return 2 * stages(obs) + at_goal(obs)


def legal(code: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which options are legal [N, K] in scenes [N]."""
    return _LEGAL[code]


def done(code: NDArray[np.int64], option: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether options [N] are over in scenes [N]."""
    return _DONE[code, option]


def achieved(before: NDArray[np.int64], after: NDArray[np.int64], option: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a step between two scenes [N] did what options [N] are for.

    Three of them are for getting somewhere, and the step which gets there achieves them; holding still is for keeping
    the block at its goal, and every step that keeps it there does so.
    """
    there_before, there = _THERE[before] == 1, _THERE[after] == 1
    held_before, held = _STAGE[before] == HOLDING, _STAGE[after] == HOLDING
    above_before, above = _STAGE[before] == ABOVE, _STAGE[after] == ABOVE
    which = [option == APPROACH, option == GRASP, option == TRANSPORT]
    return np.select(
        which, [~above_before & above, ~held_before & held, held & ~there_before & there], there_before & there
    )


def expert(code: NDArray[np.int64]) -> NDArray[np.int64]:
    """The expert's options [N] in scenes [N]."""
    return _EXPERT[code]


def _scene(code: int) -> Scene:
    stage, place = int(_STAGE[code]), list(_PLACES)[_THERE[code]]
    facts = (f"gripper={STAGES[stage]}", f"block={place}")
    return Scene(NAME, facts, f"{_WORDS[stage]} {_PLACES[place]}", tuple(np.flatnonzero(_LEGAL[code]).tolist()))


SCENES: Final = tuple(_scene(code) for code in range(len(_STAGE)))
_CODE_OF: Final = {scene.facts: code for code, scene in enumerate(SCENES)}


def code_of(scene: Scene) -> int:
    """The code of a scene, from its facts."""
    return _CODE_OF[scene.facts]

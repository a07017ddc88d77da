"""The five kinds of missions that BALROG plays (Paglieri et al., 2024), in one room, on minigrid's own classes.

Unlike in its suite the number of other objects can be chosen, and so can the side of the room.
"""

from typing import Any, Final

import gymnasium as gym
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
from minigrid.envs.babyai.core.verifier import (
    BeforeInstr,
    GoToInstr,
    Instr,
    ObjDesc,
    OpenInstr,
    PickupInstr,
    PutNextInstr,
)

SIDE, DISTRACTORS = 8, 8  # where nothing else is said
KINDS: Final = {"GoTo": 1, "Pickup": 1, "Open": 0, "PutNext": 2, "PickupGoTo": 2}  # and how many objects each is about


class OneRoom(RoomGridLevel):
    """One room; where a door is to be opened, it leads to another.

    Args:
        kind: One of `KINDS`.
        distractors: Objects that the mission is not about; they can be like those that it is about.
        side: Of the room, walls included.
    """

    def __init__(self, kind: str, distractors: int = DISTRACTORS, side: int = SIDE, **kwargs: Any) -> None:
        self.kind, self.distractors = kind, distractors
        super().__init__(room_size=side, num_rows=1, num_cols=1 + (kind == "Open"), **kwargs)

    def gen_mission(self) -> None:
        """Place the agent and the objects, and say what is to be done."""
        self.place_agent(0, 0)
        door = self.add_door(0, 0, 0, locked=False)[0] if self.kind == "Open" else None
        found = self.add_distractors(0, 0, self.distractors + KINDS[self.kind], all_unique=False)
        self.check_objs_reachable()
        about = [ObjDesc(one.type, one.color) for one in self._rand_subset(found, KINDS[self.kind])]
        self.instrs: Instr
        if door is not None:
            self.instrs = OpenInstr(ObjDesc("door", door.color))
        elif self.kind == "PutNext":
            self.instrs = PutNextInstr(*about)
        elif self.kind == "PickupGoTo":
            self.instrs = BeforeInstr(PickupInstr(about[0]), GoToInstr(about[1]))
        else:
            self.instrs = GoToInstr(about[0]) if self.kind == "GoTo" else PickupInstr(about[0])


def registered(kind: str, distractors: int, side: int) -> str:
    """Gymnasium's id of such levels."""
    env_id = f"OneRoom-{kind}-{distractors}-{side}-v0"
    if env_id not in gym.registry:
        chosen: dict[str, Any] = {"kind": kind, "distractors": distractors, "side": side}
        gym.register(env_id, entry_point="preceptor.envs.missions.rooms:OneRoom", kwargs=chosen)
    return env_id

"""The five kinds of missions that BALROG plays (Paglieri et al., 2024), in one room, on minigrid's own classes.

Unlike in its suite there is a task that mixes them, and what can be chosen are the number of other objects, the side of
the room, how missions are said, which objects they name, and how many clauses they have.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

import gymnasium as gym
from minigrid.envs.babyai.core.roomgrid_level import RejectSampling, RoomGridLevel
from minigrid.envs.babyai.core.verifier import (
    AfterInstr,
    AndInstr,
    BeforeInstr,
    GoToInstr,
    Instr,
    ObjDesc,
    OpenInstr,
    PickupInstr,
    PutNextInstr,
)

from preceptor.envs.missions.levels import mission_of
from preceptor.envs.missions.mission import COLOURS, KINDS, MOST_CLAUSES
from preceptor.envs.missions.paraphrase import paraphrase

MIX = "Mix"
ROOMS: Final = {  # task -> the verbs of its missions, one clause each, in their order
    "GoTo": ("goto",),
    "Pickup": ("pickup",),
    "Open": ("open",),
    "PutNext": ("putnext",),
    "PickupGoTo": ("pickup", "goto"),
}
_VERBS: Final = {"goto": GoToInstr, "pickup": PickupInstr, "putnext": PutNextInstr}
HELD_OUT = frozenset(zip(COLOURS, KINDS, strict=False))  # blue box, green ball, grey key, purple door: one in six
WORDS, PAIRS = ("plain", "training", "held-out"), ("all", "known", "new")
COUNTS: Final = {  # of clauses; "" for those of the kind
    "": (0, 0),
    **{str(count): (count, count) for count in range(1, MOST_CLAUSES + 1)},
    **{f"1-{most}": (1, most) for most in range(2, MOST_CLAUSES + 1)},
}


@dataclass(frozen=True)
class Chosen:
    """What can be chosen of a room.

    Attributes:
        distractors: Objects that the mission is not about; they can be like those that it is about.
        side: Of the room, walls included.
        words: One of `WORDS`: as minigrid says missions, or paraphrased in training forms or held-out ones.
        pairs: One of `PAIRS`: missions that name any object, none of `HELD_OUT`, or at least one of these.
        kind: One of `ROOMS` in lower case, for a mixture that is of this kind alone; "" for each.
        clauses: A key of `COUNTS`; where given, the verbs of a mixture are drawn one by one.
    """

    distractors: int = 8
    side: int = 8
    words: str = "plain"
    pairs: str = "all"
    kind: str = ""
    clauses: str = ""

    def objects(self, room: str) -> int:
        """At most so many objects lie in a room."""
        verbs = ROOMS.get(room, ("putnext",) * max(1, COUNTS[self.clauses][1]))
        return self.distractors + sum(_needs(verb) for verb in verbs)

    @property
    def space(self) -> int:
        """So many objects at most can lie in the room and still be reached, as a rule."""
        return (self.side - 2) ** 2 // 2


def _needs(verb: str) -> int:
    """How many objects a clause is about, beside doors."""
    return {"open": 0, "putnext": 2}.get(verb, 1)


class OneRoom(RoomGridLevel):
    """One room; where doors may have to be opened, it is beside another.

    Args:
        room: One of `ROOMS`, or `MIX`.
        chosen: Fields of `Chosen`.
    """

    def __init__(self, room: str, chosen: dict[str, Any], **kwargs: Any) -> None:
        self._room, self._chosen = room, Chosen(**chosen)
        super().__init__(room_size=self._chosen.side, num_rows=1, num_cols=1 + (room in ("Open", MIX)), **kwargs)

    def _gen_grid(self, width: int, height: int) -> None:
        super()._gen_grid(width, height)
        if self._chosen.words != "plain":
            held_out = self._chosen.words == "held-out"
            self.surface = self.mission = paraphrase(mission_of(self), self.np_random, held_out)

    def _verbs(self) -> tuple[str, ...]:
        """Of this level's mission."""
        few, most = COUNTS[self._chosen.clauses]
        if most:
            count = few if few == most else self._rand_int(few, most + 1)
            verbs = [self._rand_elem(["goto", "pickup", "open", "putnext"]) for _ in range(count)]
            # There is one door, so that a second clause about it would be about the first one's
            return tuple("goto" if verb == "open" and "open" in verbs[:k] else verb for k, verb in enumerate(verbs))
        kinds = {kind.lower(): kind for kind in ROOMS}
        room = kinds[self._chosen.kind or self._rand_elem(list(kinds))] if self._room == MIX else self._room
        return ROOMS[room]

    def gen_mission(self) -> None:
        """Place the agent and the objects, and say what is to be done."""
        verbs = self._verbs()
        self.place_agent(0, 0)
        door = self.add_door(0, 0, 0, locked=False)[0] if "open" in verbs else None
        count = sum(map(_needs, verbs))
        found = self.add_distractors(0, 0, self._chosen.distractors + count, all_unique=False)
        self.check_objs_reachable()
        about = [ObjDesc(one.type, one.color) for one in self._rand_subset(found, count)]
        clauses: list[Instr] = []
        for verb in verbs:
            if door is not None and verb == "open":
                clauses.append(OpenInstr(ObjDesc("door", door.color)))
            else:
                clauses.append(_VERBS[verb](*(about.pop(0) for _ in range(_needs(verb)))))
        self.instrs: Instr = self._joined(clauses) if len(clauses) > 1 else clauses[0]
        named = {(what.colour, what.kind) for what in mission_of(self).named}
        if self._chosen.pairs != "all" and bool(named & HELD_OUT) != (self._chosen.pairs == "new"):
            raise RejectSampling("the mission names other objects than it may")

    def _joined(self, clauses: list[Instr]) -> Instr:
        """Two to four clauses: those of a kind in order, others in one of the ways that BabyAI joins them."""
        ways = [AndInstr, BeforeInstr, AfterInstr][len(clauses) > 2 :]
        order: Any = self._rand_elem(ways) if self._chosen.clauses else BeforeInstr
        half = self._rand_int(1, 3) if len(clauses) == 3 else len(clauses) // 2
        parts = (clauses[:half], clauses[half:])
        return order(*(part[0] if len(part) == 1 else AndInstr(*part) for part in parts))


def registered(room: str, chosen: Chosen) -> str:
    """Gymnasium's id of such levels."""
    fields = asdict(chosen)
    env_id = "-".join(["OneRoom", room, *(str(value or "any") for value in fields.values()), "v0"])
    if env_id not in gym.registry:
        said: dict[str, Any] = {"room": room, "chosen": fields}
        gym.register(env_id, entry_point="preceptor.envs.missions.rooms:OneRoom", kwargs=said)
    return env_id

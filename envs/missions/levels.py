"""Pools of BabyAI levels: what minigrid's generator made and the verifier needs, as arrays, and the levels as agents see them.

An observation is one array, uint8 [W, H + S, 4]: the fog-of-war map, and below it a *strip* of W * S * 4 bytes with
what the agent was told or remembers: its pose when the episode began (x, y, direction), where it picked up what it
holds (x, y; zero if nothing), which of the four clauses are done, and the numbers of the mission's words.
"""

from typing import Any, NamedTuple

import numpy as np
from gymnasium import Env, spaces
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
from minigrid.envs.babyai.core.verifier import (
    AfterInstr,
    AndInstr,
    BeforeInstr,
    GoToInstr,
    Instr,
    OpenInstr,
    PickupInstr,
    PutNextInstr,
)
from minigrid.minigrid_env import MiniGridEnv
from numpy.typing import NDArray

from preceptor.envs.gridworld.cells import EMPTY
from preceptor.envs.gridworld.levels import LevelSpec
from preceptor.envs.gridworld.single import SeenMap, to_cell
from preceptor.envs.gridworld.stock_tasks import make_pool
from preceptor.envs.missions.mission import MOST_CLAUSES, VERBS, Clause, Description, Mission
from preceptor.envs.missions.vocabulary import LENGTH, VOCABULARY
from preceptor.ground.errors import UserError

_VERB_OF = {GoToInstr: "goto", OpenInstr: "open", PickupInstr: "pickup", PutNextInstr: "putnext"}
_OBJECTS = ("desc", "desc_move", "desc_fixed")  # what minigrid's clauses call their descriptions
ORDER = 1 << MOST_CLAUSES  # bit of `Missions.strict`
BEGAN, PICKED, DONE, WORDS = slice(0, 3), slice(3, 5), slice(5, 5 + MOST_CLAUSES), slice(9, 9 + LENGTH)


class Missions(NamedTuple):
    """What P levels ask for.

    Attributes:
        verbs: int64 [P, 4], of each clause its index in `VERBS`, or -1.
        first: int64 [P], how many clauses are done before the others.
        strict: int64 [P]. Bit k: clause k fails with a wrong door or object; bit 4: so does the wrong order.
        limit: int64 [P], steps after which an episode is truncated.
        carried: int64 [P], the stored cell that the agent carries from the start, zero if nothing.
        carried_marks: uint8 [P], the marks of that.
        marks: uint8 [P, W, H], bits 2k and 2k + 1: the object there is what clause k is about, or beside what it puts it.
        words: uint8 [P, LENGTH].
    """

    verbs: NDArray[np.int64]
    first: NDArray[np.int64]
    strict: NDArray[np.int64]
    limit: NDArray[np.int64]
    carried: NDArray[np.int64]
    carried_marks: NDArray[np.uint8]
    marks: NDArray[np.uint8]
    words: NDArray[np.uint8]


class Parts(NamedTuple):
    """The parts of observations [N, W, H + S, 4], see the module.

    Attributes:
        image: uint8 [N, W, H, 4], the map.
        began: uint8 [N, 3].
        picked: uint8 [N, 2].
        done: uint8 [N, 4].
        words: uint8 [N, LENGTH].
    """

    image: NDArray[np.uint8]
    began: NDArray[np.uint8]
    picked: NDArray[np.uint8]
    done: NDArray[np.uint8]
    words: NDArray[np.uint8]


def strip_columns(width: int) -> int:
    """S, for maps of this width."""
    return -(-WORDS.stop // (4 * width))


def parts(obs: NDArray[np.uint8]) -> Parts:
    """Observations [N, W, H + S, 4] in their parts."""
    columns = strip_columns(obs.shape[1])
    strip = obs[:, :, -columns:].reshape(len(obs), -1)
    image = np.require(obs[:, :, :-columns], np.uint8, ["C", "W"])
    return Parts(image, *(np.ascontiguousarray(strip[:, part]) for part in (BEGAN, PICKED, DONE, WORDS)))


def joined(image: NDArray[np.uint8], strip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Observations of maps [N, W, H, 4] and strips [N, W * S * 4]."""
    return np.concatenate([image, strip.reshape(*image.shape[:2], -1, 4)], axis=2)


def _groups(instr: Instr) -> tuple[list[Instr], list[Instr]]:
    """Minigrid's clauses: those to be done first, and those after them."""
    both = {AfterInstr: ("instr_b", "instr_a"), BeforeInstr: ("instr_a", "instr_b")}.get(type(instr))
    if both is None:
        return _together(instr), []
    return _together(getattr(instr, both[0])), _together(getattr(instr, both[1]))


def _together(instr: Instr) -> list[Instr]:
    return [instr.instr_a, instr.instr_b] if type(instr) is AndInstr else [instr]


def _clause(instr: Instr) -> Clause:
    if type(instr) not in _VERB_OF:
        raise UserError(f"Missions have the clause {type(instr).__name__}, which the verifier does not know.")
    objects = [getattr(instr, name) for name in _OBJECTS if hasattr(instr, name)]
    return Clause(_VERB_OF[type(instr)], *(Description(d.color or "", d.type or "", d.loc or "") for d in objects))


def mission_of(env: RoomGridLevel) -> Mission:
    """The mission of the level that an environment plays. Raises `UserError` for one with other clauses than BabyAI's."""
    first, then = _groups(env.instrs)
    return Mission(tuple(map(_clause, first)), tuple(map(_clause, then)))


class _Notes:
    """Collects `Missions` level by level."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self.room_size = 0

    def __call__(self, env: MiniGridEnv) -> None:
        """Note the level that was just made. Raises `UserError` for what the verifier or the strip cannot hold."""
        assert isinstance(env, RoomGridLevel)  # its rules say so, `win_of`
        self.room_size = env.room_size
        first, then = _groups(env.instrs)
        mission, marks, carried_marks = mission_of(env), np.zeros((env.width, env.height), np.uint8), 0
        strict = ORDER * bool(getattr(env.instrs, "strict", False) and then)
        for k, instr in enumerate(first + then):
            strict |= bool(getattr(instr, "strict", False)) << k
            descs = [getattr(instr, name) for name in _OBJECTS if hasattr(instr, name)]
            for bit, desc in enumerate(descs, 2 * k):
                for x, y in desc.obj_poss:
                    marks[x, y] |= 1 << bit
                carried_marks |= any(env.carrying is one for one in desc.obj_set if env.carrying) << bit
        verbs = [VERBS.index(clause.verb) for clause in mission.clauses]
        verbs += [-1] * (MOST_CLAUSES - len(verbs))
        carried = to_cell(env.carrying) if env.carrying else 0
        words = VOCABULARY.encode(env.mission, LENGTH)
        self.rows.append((verbs, len(first), strict, env.max_steps, carried, carried_marks, marks, words))


def make_missions(env_id: str, count: int, first_seed: int = 0) -> tuple[LevelSpec, Missions, int]:
    """The rules of an environment with levels that its own generator made, their missions, and the side of its rooms.

    Args:
        env_id, count, first_seed: See `make_pool`.

    Raises:
        UserError: As `make_pool`; and for missions, or objects, that the verifier does not know.
    """
    notes = _Notes()
    spec = make_pool(env_id, count, first_seed, notes)
    if not notes.room_size:
        raise UserError(f"{env_id} is not a level of BabyAI.")
    types = [np.uint8 if name in ("carried_marks", "marks", "words") else np.int64 for name in Missions._fields]
    columns = zip(zip(*notes.rows, strict=True), types, strict=True)
    return spec, Missions(*(np.array(column, dtype) for column, dtype in columns)), notes.room_size


class MissionView(SeenMap):
    """A BabyAI environment of minigrid's whose observations are those of the batched ones: map and strip."""

    def __init__(self, env: Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(self._inner, RoomGridLevel)
        self._level = self._inner
        width, height = self._level.width, self._level.height
        columns = strip_columns(width)
        self.observation_space = spaces.Box(0, 255, (width, height + columns, 4), np.uint8)
        self._strip = np.zeros((1, width * columns * 4), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        image, info = super().reset(seed=seed, options=options)
        self._strip[:] = 0
        self._strip[0, BEGAN] = (*self._level.agent_pos, self._level.agent_dir)
        self._strip[0, WORDS] = VOCABULARY.encode(self._level.mission, LENGTH)
        return joined(image[None], self._strip)[0], info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The environment's own step."""
        before = self._level.carrying
        image, reward, terminated, truncated, info = super().step(action)
        if self._level.carrying is not before:
            self._strip[0, PICKED] = (0, 0) if before else self._level.front_pos
        groups, instrs = _groups(self._level.instrs), self._level.instrs
        sides = {AfterInstr: ("b_done", "a_done"), BeforeInstr: ("a_done", "b_done")}.get(type(instrs))
        over = [info["success"]] if sides is None else [getattr(instrs, side) == "success" for side in sides]
        inner = [instrs] if sides is None else [getattr(instrs, f"instr_{side[0]}") for side in sides]
        done = []
        for group, whole, instr in zip(groups, over, inner, strict=False):
            each = [instr.a_done == "success", instr.b_done == "success"] if type(instr) is AndInstr else [whole]
            done += each[: len(group)]
        self._strip[0, DONE] = done + [False] * (MOST_CLAUSES - len(done))
        return joined(image[None], self._strip)[0], reward, terminated, truncated, info


def bare(cells: NDArray[np.uint16], marks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The marks [P, W, H] of objects that are on the grid: what the agent carries from the start has left its place."""
    return np.where(cells == EMPTY, 0, marks).astype(np.uint8)

"""Pools of BabyAI levels as arrays: what minigrid's generator made and the verifier needs; and what agents see of them.

An observation is one array, uint8 [W, H + S, 4]: the fog-of-war map, and below it a *strip* of W * S * 4 bytes with
what the agent was told or remembers: its pose when the episode began (x, y, direction), the colour of the open door in
which it stands (MiniGrid's + 1; zero if none), where it picked up what it holds (x, y; zero if nothing), whether each
of four clauses is done (1) or not there (2), and the numbers of the mission's words.
"""

from contextlib import redirect_stdout
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
    ObjDesc,
    OpenInstr,
    PickupInstr,
    PutNextInstr,
)
from numpy.typing import NDArray

from preceptor.envs.gridworld.cells import EMPTY
from preceptor.envs.gridworld.levels import POOL, WIN_MISSION, LevelSpec, Pool
from preceptor.envs.gridworld.single import SeenMap, to_cell
from preceptor.envs.gridworld.stock_tasks import Source
from preceptor.envs.missions.mission import MOST_CLAUSES, VERBS, Clause, Description, Mission
from preceptor.envs.missions.vocabulary import LENGTH, told
from preceptor.ground.errors import UserError

_VERB_OF = {GoToInstr: "goto", OpenInstr: "open", PickupInstr: "pickup", PutNextInstr: "putnext"}
ABSENT = 2  # of a clause, instead of whether it is done
ORDER = 1 << MOST_CLAUSES  # bit of `Missions.strict`
BEGAN, UNDER, PICKED, DONE, WORDS = slice(0, 3), slice(3, 4), slice(4, 6), slice(6, 10), slice(10, 10 + LENGTH)


class Missions(NamedTuple):
    """What P levels ask for.

    Attributes:
        verbs: int64 [P, 4], of each clause its index in `VERBS`, or -1.
        first: int64 [P], how many clauses are done before the others.
        strict: int64 [P]. Bit k: clause k fails with a wrong door or object; bit 4: so does the wrong order.
        limit: int64 [P], steps after which an episode is truncated.
        carried: int64 [P], the stored cell that the agent carries from the start, zero if nothing.
        carried_marks: uint8 [P], the marks of that.
        marks: uint8 [P, W, H], bits 2k and 2k + 1: the object there is what clause k speaks of, or beside what.
        places: uint8 [P, W, H], the same, and the place from which the agent took what it carries.
        words: uint8 [P, LENGTH].
    """

    verbs: NDArray[np.int64]
    first: NDArray[np.int64]
    strict: NDArray[np.int64]
    limit: NDArray[np.int64]
    carried: NDArray[np.int64]
    carried_marks: NDArray[np.uint8]
    marks: NDArray[np.uint8]
    places: NDArray[np.uint8]
    words: NDArray[np.uint8]


class Parts(NamedTuple):
    """The parts of observations [N, W, H + S, 4], see the module.

    Attributes:
        image: uint8 [N, W, H, 4], the map.
        frame: uint8 [N, 4], the pose and the door.
        picked: uint8 [N, 2].
        done: uint8 [N, 4], 1 for clauses that are done, `ABSENT` for those beyond the mission's last.
        words: uint8 [N, LENGTH].
    """

    image: NDArray[np.uint8]
    frame: NDArray[np.uint8]
    picked: NDArray[np.uint8]
    done: NDArray[np.uint8]
    words: NDArray[np.uint8]


def strip_columns(width: int) -> int:
    """S, for maps of this width."""
    return -(-WORDS.stop // (4 * width))


def parts(obs: NDArray[np.uint8]) -> Parts:
    """Observations [N, W, H + S, 4] in their parts."""
    columns = strip_columns(obs.shape[1])
    strip = obs[:, :, -columns:].reshape(len(obs), obs.shape[1] * columns * 4)
    image = np.require(obs[:, :, :-columns], np.uint8, ["C", "W"])
    return Parts(image, *(np.ascontiguousarray(strip[:, part]) for part in (slice(0, 4), PICKED, DONE, WORDS)))


def joined(image: NDArray[np.uint8], strip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Observations of maps [N, W, H, 4] and strips [N, W * S * 4]."""
    return np.concatenate([image, strip.reshape(*image.shape[:2], -1, 4)], axis=2)


def _groups(instr: Instr) -> tuple[list[Instr], list[Instr]]:
    """Minigrid's clauses: those to be done first, and those after them."""
    if not isinstance(instr, AfterInstr | BeforeInstr):
        return _together(instr), []
    one, other = _together(instr.instr_a), _together(instr.instr_b)
    return (one, other) if isinstance(instr, BeforeInstr) else (other, one)


def _together(instr: Instr) -> list[Instr]:
    return [instr.instr_a, instr.instr_b] if type(instr) is AndInstr else [instr]


def _clause(instr: Instr) -> Clause:
    if type(instr) not in _VERB_OF:
        raise UserError(f"Missions have the clause {type(instr).__name__}, which the verifier does not know.")
    said = [Description(d.color or "", d.type or "", d.loc or "") for d in _objects(instr)]
    return Clause(_VERB_OF[type(instr)], *said)


def _objects(instr: Instr) -> list[ObjDesc]:
    """What a clause is about, and beside what."""
    return [getattr(instr, name) for name in ("desc", "desc_move", "desc_fixed") if hasattr(instr, name)]


def _instrs(env: RoomGridLevel) -> Instr:
    """The mission as minigrid's objects."""
    found: Instr = env.instrs  # type: ignore[attr-defined]  # which each level's `gen_mission` sets
    return found


def mission_of(env: RoomGridLevel) -> Mission:
    """The mission of the level that an environment plays. Raises `UserError` for other clauses than BabyAI's."""
    first, then = _groups(_instrs(env))
    return Mission(tuple(map(_clause, first)), tuple(map(_clause, then)))


class MissionPool:
    """The levels of one split with their missions, each of which minigrid's generator makes when it is first played.

    Args:
        env_id: As for `gridworld.stock_tasks.Source`.
        count: Number of levels.
        first_seed: Level seed of the first.

    Attributes:
        spec: The rules. Its pool is filled by and by; the number of steps is that of the longest possible mission.
        missions: Likewise.
        room_size: Side of the rooms, walls included.

    Raises:
        UserError: There is no such environment, or the engine or the verifier does not know its rules.
    """

    def __init__(self, env_id: str, count: int, first_seed: int) -> None:
        self._source = Source(env_id)
        env = self._source.env
        if not isinstance(env, RoomGridLevel) or self._source.win != WIN_MISSION:
            raise UserError(f"{env_id} is not a level of BabyAI.")
        (cells, pose), self._env, self.room_size = self._source.level(first_seed), env, env.room_size
        width, height, view, see_through = self._source.rules or (0, 0, 0, False)
        longest = 2 * MOST_CLAUSES * env.room_size**2 * env.num_rows * env.num_cols
        limit = env.max_steps if env.fixed_max_steps else longest  # the others are not known yet
        pool = Pool(first_seed, np.repeat(cells[None], count, 0), np.tile(np.array(pose, np.int64), (count, 1)))
        self.spec = LevelSpec(env_id, width, height, view, limit, POOL, WIN_MISSION, see_through, pool)
        self.missions = Missions(
            verbs=np.full((count, MOST_CLAUSES), -1, np.int64),
            first=np.zeros(count, np.int64),
            strict=np.zeros(count, np.int64),
            limit=np.zeros(count, np.int64),
            carried=np.zeros(count, np.int64),
            carried_marks=np.zeros(count, np.uint8),
            marks=np.zeros((count, width, height), np.uint8),
            places=np.zeros((count, width, height), np.uint8),
            words=np.zeros((count, LENGTH), np.uint8),
        )
        self._is_made = np.zeros(count, np.bool_)

    def need(self, level_seeds: NDArray[np.int64]) -> None:
        """Make those of the levels that are not there yet. Raises `UserError` for what the verifier does not know."""
        levels = level_seeds - self.spec.pool.first
        for level in np.unique(levels[~self._is_made[levels]]).tolist():
            self._make(level)
            self._is_made[level] = True

    def _make(self, p: int) -> None:
        pool, of, env = self.spec.pool, self.missions, self._env
        pool.cells[p], pool.pose[p] = self._source.level(pool.first + p)
        mission, (first, then) = mission_of(env), _groups(_instrs(env))
        of.first[p], of.limit[p], of.words[p] = len(first), env.max_steps, told(env.mission)
        of.strict[p] = ORDER * bool(then and getattr(_instrs(env), "strict", False))
        of.carried[p] = to_cell(env.carrying) if env.carrying else 0
        for k, (clause, instr) in enumerate(zip(mission.clauses, first + then, strict=True)):
            of.verbs[p, k] = VERBS.index(clause.verb)
            of.strict[p] |= bool(getattr(instr, "strict", False)) << k
            for bit, desc in enumerate(_objects(instr), 2 * k):
                of.places[(p, *np.transpose(desc.obj_poss))] |= np.uint8(1 << bit)
                of.carried_marks[p] |= any(env.carrying is one for one in desc.obj_set) << bit
        of.marks[p] = np.where(pool.cells[p] == EMPTY, 0, of.places[p])  # what it carries has left its place


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
        with redirect_stdout(None):  # as in `OwnView`
            image, info = super().reset(seed=seed, options=options)
        self._strip[:] = 0
        self._strip[0, BEGAN] = (*self._level.agent_pos, self._level.agent_dir)
        self._strip[0, WORDS] = told(self._level.mission)
        self._strip[0, DONE] = [0 if k < len(mission_of(self._level).clauses) else ABSENT for k in range(MOST_CLAUSES)]
        return joined(image[None], self._strip)[0], info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The environment's own step."""
        before = self._level.carrying
        image, reward, terminated, truncated, info = super().step(action)
        if self._level.carrying is not before:
            self._strip[0, PICKED] = (0, 0) if before else self._level.front_pos
        under = self._level.grid.get(*self._level.agent_pos)
        self._strip[0, UNDER] = under.encode()[1] + 1 if under else 0  # nothing but doors is stood on
        instrs = _instrs(self._level)
        sides = {"AfterInstr": "ba", "BeforeInstr": "ab"}.get(type(instrs).__name__, "")
        over = [getattr(instrs, f"{side}_done") == "success" for side in sides] or [info["success"]]
        inner = [getattr(instrs, f"instr_{side}") for side in sides] or [instrs]
        done = []
        for whole, instr in zip(over, inner, strict=True):
            together = isinstance(instr, AndInstr)
            done += [instr.a_done == "success", instr.b_done == "success"] if together else [whole]
        self._strip[0, DONE] = done + [ABSENT] * (MOST_CLAUSES - len(done))
        return joined(image[None], self._strip)[0], reward, terminated, truncated, info

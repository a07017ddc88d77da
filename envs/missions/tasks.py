"""Levels of BabyAI as tasks: missions in words, options with arguments, scenes, skills and an expert.

    python main.py train --method ppo --task BabyAI-GoToLocal
    python main.py eval --compare scripted,random --task OneRoom-PutNext:distractors=0

Options are a verb and a description, `goto:red ball left`, over all colours, kinds and places, so that `legal` says
what can be done and not what should be. Scenes are about the mission: they speak of what it needs, and offer that.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numba import njit
from numpy.typing import NDArray

from preceptor.envs.gridworld.engine import NUM_ACTIONS
from preceptor.envs.gridworld.outlook import ACTION_WORDS, outlook
from preceptor.envs.gridworld.stock_tasks import POOL_LEVELS
from preceptor.envs.gym_tasks import LevelSeeds, gymnasium_env
from preceptor.envs.missions import planning, reading
from preceptor.envs.missions.following import MissionPlans
from preceptor.envs.missions.levels import WORDS, MissionPool, MissionView, Parts, parts, strip_columns
from preceptor.envs.missions.mission import MOST_CLAUSES
from preceptor.envs.missions.options import ahead, legality, option_space
from preceptor.envs.missions.reading import (
    AHEAD,
    ASIDE,
    AT,
    BARE,
    CLEARED,
    FRONT,
    FRONTIER,
    HERE,
    IN_HAND,
    JUST_HERE,
    NEXT,
    NUMBER,
    ONWARD,
    REACHED,
    TARGETS,
)
from preceptor.envs.missions.retelling import retold
from preceptor.envs.missions.scenes import (
    SLOTS,
    Facts,
    expert,
    from_strings,
    legal_ids,
    slots,
    to_strings,
    to_text,
    understood,
)
from preceptor.envs.missions.simulator import MissionSimulator
from preceptor.envs.missions.vocabulary import UNKNOWN, VOCABULARY
from preceptor.envs.task import GoalSpace, Scene, Task
from preceptor.envs.vector import BatchedEnv
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import combine, split_range

Obs = NDArray[np.uint8]
_KEPT = 200_000  # scenes, and missions, that are remembered before all of them are made anew
_RULES = (
    "You are in walled rooms and know only what you have seen of them. You carry at most one thing. A closed door "
    "opens when you use it, a locked door when you also hold the key of its colour. You can pick up, open or use only "
    "what is right in front of you, so go to it first. Put down what you hold before you pick up something else. "
    "Left, right, in front and behind are meant as you stood when you began, and in the room in which you began. "
    "Opening a box makes it vanish. A thing in the way can be picked up and put down elsewhere."
)


class _Asked(NamedTuple):
    """What M missions ask for: `slots` int64 [M, 8] of targets, -1 for none; `aims` int64 [M, 8]; `first` int64 [M]."""

    slots: NDArray[np.int64]
    aims: NDArray[np.int64]
    first: NDArray[np.int64]


class _Read(NamedTuple):
    """What `reading.read` says of N observations.

    `asked` is what their missions are about [N, 8], `wanted` the part of that which is to be done next.
    """

    parts: Parts
    status: NDArray[np.int16]
    facts: NDArray[np.int64]
    asked: NDArray[np.int64]
    wanted: NDArray[np.int64]


@njit(cache=True)
def _codes(words, columns, out):  # type: ignore[no-untyped-def]
    """Hashes of rows of words [N, L] and numbers [N, F]."""
    for n in range(len(words)):
        code = np.uint64(0)
        for word in words[n]:
            code = combine(code, word)
        for column in columns[n]:
            code = combine(code, column)
        out[n] = np.int64(code)


class MissionTask(Task):
    """A level of BabyAI; see `Task` for the methods, and `levels` for the observations, uint8 [N, W, H + S, 4].

    Args:
        name: Its name with parameters, in order.
        env_id: Gymnasium's.
        count: Levels to make for training.
        side: Of the plain task's maps, which networks are made for; None for its own.

    Raises:
        UserError: The levels have rules that the engine or the verifier does not know.
    """

    goal = "Do what the mission says."
    rules = _RULES
    goal_space = GoalSpace(("x", "y"), (1.0, 1.0))
    num_actions, action_words = NUM_ACTIONS, ACTION_WORDS

    def __init__(self, name: str, env_id: str, count: int = POOL_LEVELS["train"], side: int | None = None) -> None:
        self.name, self._env_id, self._count = name.rpartition("/")[2], env_id, count
        self._pools: dict[str, MissionPool] = {}
        pool = self._pool("train")
        width, height = pool.spec.width, pool.spec.height
        self.told_columns = strip_columns(width)
        self.observation_shape = (width, height + self.told_columns, 4)
        self.encoded_shape = (width, height, 4) if side is None else (side, side, 4)
        self.options = option_space(max(width, height))
        self._index = {option: k for k, option in enumerate(self.options.ids)}
        self.plans = MissionPlans(self._index)
        self._sight = pool.spec.view_size, pool.room_size
        self._forget()

    def _pool(self, split: str) -> MissionPool:
        first, _ = split_range(split)  # an unknown split is an error before levels are made
        if split not in self._pools:
            count = self._count if split == "train" else POOL_LEVELS[split]
            self._pools[split] = MissionPool(self._env_id, count, first)
        return self._pools[split]

    def not_understood(self, level_seeds: Sequence[int]) -> int:
        """How many held-out levels have missions with words that no controller knows."""
        pool, seeds = self._pool("eval"), np.array(level_seeds, np.int64)
        pool.need(seeds)
        return int((pool.missions.words[seeds - pool.spec.pool.first] == UNKNOWN).any(1).sum())

    def _forget(self) -> None:
        self._last: tuple[Obs, _Read] | None = None
        self._scenes: dict[int, Scene] = {}
        self._row_of_words: dict[bytes, int] = {}
        self._texts: list[str] = []
        self._asked = _Asked(np.zeros((0, SLOTS), np.int64), np.zeros((0, SLOTS), np.int64), np.zeros(0, np.int64))

    def make_vec(self, num_envs: int, *, split: str = "train", seed: int = 0, **how: Any) -> gym.vector.VectorEnv:
        """Batched environments on the levels that were made for a split."""
        return BatchedEnv(MissionSimulator(self._pool(split), num_envs, self.name), split, seed, **how)

    def make_env(self, split: str = "eval", render_mode: str | None = None) -> gym.Env:
        """Minigrid's own environment, in lock step with the batched ones."""
        return LevelSeeds(MissionView(gymnasium_env(self._env_id, render_mode)), split)

    def from_gymnasium(self, obs: Any) -> Obs:
        """Observations as they are.

        Raises:
            UserError: They are minigrid's views, which remember nothing, or their missions have words that are none.
        """
        if isinstance(obs, Mapping) or np.shape(obs)[-3:] != self.observation_shape:
            raise UserError(
                f"{self.name} is played from maps and missions, uint8 {self.observation_shape}, not minigrid's views.",
                "preceptor.envs.missions.levels.MissionView(env)",
            )
        found = np.asarray(obs, np.uint8)
        strip = found[..., -self.told_columns :, :].reshape(-1, self.told_columns * 4 * found.shape[-3])
        if (strip[:, WORDS] >= len(VOCABULARY)).any():
            raise UserError(
                f"The observations of {self.name} hold words that there are not.",
                "preceptor.envs.missions.levels.MissionView(env)",
            )
        return found

    def _rows(self, words: Obs) -> NDArray[np.int64]:
        """The row of each observation's mission in the tables."""
        keys = [row.tobytes() for row in words]
        if any(key not in self._row_of_words for key in keys):
            if len(self._row_of_words) > _KEPT:
                self._forget()
            new = list(dict.fromkeys(key for key in keys if key not in self._row_of_words))
            self._row_of_words |= {key: len(self._texts) + i for i, key in enumerate(new)}
            texts = [VOCABULARY.decode(np.frombuffer(key, np.uint8)) for key in new]
            self._texts += texts
            rows = [_asked_of(text) for text in texts]
            added = _Asked(*(np.array(column) for column in zip(*rows, strict=True)))
            self._asked = _Asked(*(np.concatenate(both) for both in zip(self._asked, added, strict=True)))
        return np.array([self._row_of_words[key] for key in keys], np.int64)

    def _read(self, obs: Obs) -> _Read:
        """What observations say; those of the last call, about which each step asks several times, are known."""
        last = self._last
        if last is None or not np.array_equal(last[0], obs):
            last = self._last = obs.copy(), self._read_anew(obs)
        return last[1]

    def _read_anew(self, obs: Obs) -> _Read:
        found = parts(obs)
        rows = self._rows(found.words)
        asked, aims, first = (column[rows] for column in self._asked)
        undone = (asked.reshape(-1, MOST_CLAUSES, 2) >= 0).any(2) & (found.done == 0)
        early = undone & (np.arange(MOST_CLAUSES) < first[:, None])
        now = np.where(early.any(1, keepdims=True), early, undone)
        wanted = np.where(np.repeat(now, 2, axis=1), asked, -1)
        status = np.empty((len(obs), len(TARGETS)), np.int16)
        facts = np.empty((len(obs), reading.COLUMNS), np.int64)
        reading.read(found.image, found.frame, found.picked, wanted, aims, self._sight, status, facts)
        return _Read(found, status, facts, asked, wanted)

    def _fields(self, read: _Read) -> NDArray[np.int64]:
        """What decides the facts beside the mission's words: done flags, statuses of slots, `reading`'s facts."""
        slot_status = np.take_along_axis(read.status, np.maximum(read.asked, 0), 1) & reading.SAID
        slot_status[read.asked < 0] = 0
        facts = read.facts[:, :CLEARED].copy()
        matters = (slot_status & FRONT).any(1) | (facts[:, AT] > 0)
        facts[~matters, AHEAD] = -1
        done = (read.parts.done == 1).astype(np.int64)
        return np.concatenate([done, slot_status.astype(np.int64), facts], axis=1)

    def sensed(self, obs: Obs) -> tuple[NDArray[np.int16], NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint8]]:
        """What controllers read: status [N, D] of each description, `reading`'s facts [N, F] without a mission, whether
        each of four clauses is done or absent [N, 4], and the numbers of the mission's words [N, L]."""
        read = self._read(obs)
        facts = read.facts[:, : reading.FACTS].copy()
        facts[:, NEXT], facts[:, (AT, CLEARED)] = -1, read.facts[:, reading.FACTS :]
        return read.status, facts, read.parts.done, read.parts.words

    def fact_codes(self, obs: Obs) -> NDArray[np.int64]:
        """One integer per observation [N], a hash of its facts."""
        read = self._read(obs)
        return self._hashed(read.parts.words, self._fields(read))

    def _hashed(self, words: Obs, fields: NDArray[np.int64]) -> NDArray[np.int64]:
        out = np.empty(len(words), np.int64)
        _codes(words, np.ascontiguousarray(fields), out)
        return out

    def describe(self, obs: Obs) -> list[Scene]:
        """Scenes of observations; the same object for equal facts."""
        read = self._read(obs)
        fields = self._fields(read)
        codes = self._hashed(read.parts.words, fields)
        if len(self._scenes) > _KEPT:
            self._scenes = {}
        for n, code in enumerate(codes.tolist()):
            if code not in self._scenes:
                text = self._texts[self._row_of_words[read.parts.words[n].tobytes()]]
                self._scenes[code] = self._scene(text, fields[n])
        return [self._scenes[code] for code in codes.tolist()]

    def _scene(self, text: str, fields: NDArray[np.int64]) -> Scene:
        done, status, row = np.split(fields, [MOST_CLAUSES, MOST_CLAUSES + SLOTS])
        facts = Facts(
            text,
            tuple(bool(one) for one in done),
            tuple(status.tolist()),
            explore=bool(row[FRONTIER]),
            ahead=int(row[AHEAD]),
            held=int(row[IN_HAND]),
            aside=int(row[ASIDE]),
            bare=bool(row[BARE]),
            next=int(row[NEXT]),
            onward=int(row[ONWARD]),
            at=bool(row[AT]),
        )
        legal = sorted(self._index[option] for option in legal_ids(facts))
        return Scene(self.name, to_strings(facts), to_text(facts), tuple(legal))

    def sights(self, obs: Obs) -> list[str]:
        """The mission, and what has been seen [N], from where the agent stands."""
        found = parts(obs)
        texts = [VOCABULARY.decode(row) for row in found.words]
        return [f"Your mission: {text}. {outlook(seen)}" for text, seen in zip(texts, found.image, strict=True)]

    def retold(self, obs: Obs, keys: NDArray[np.int64]) -> Obs:
        """The same places with missions of training levels, which mostly speak of what was seen."""
        pool, status = self._pool("train"), self._read(obs).status
        count = min(POOL_LEVELS["train"], len(pool.missions.words))
        pool.need(pool.spec.pool.first + np.arange(count))
        words = pool.missions.words[:count]
        rows = self._rows(words)
        return retold(obs, keys, status, (words, self._asked.slots[rows], self._asked.first[rows]))

    def legal(self, obs: Obs) -> NDArray[np.bool_]:
        """What can be done [N, K], whatever the mission is; those of scenes are a part of it."""
        read = self._read(obs)
        return legality(read.status, read.facts)

    def options_done(self, obs: Obs) -> NDArray[np.bool_]:
        """Of each option [N, K] whether it is over: achieved, or no longer possible."""
        read = self._read(obs)
        status, (front, shown) = read.status, ahead(read.facts)
        done = ~legality(status, read.facts)
        done[:, reading.USE] |= front == 4  # a door that is open by now
        done[:, reading.CARRY_ASIDE] |= read.facts[:, ASIDE] == JUST_HERE
        done[:, reading.CLEAR] |= read.facts[:, AT] > 0
        near = (np.take_along_axis(status, np.maximum(read.wanted, 0), 1) & REACHED > 0) & (read.wanted >= 0)
        done[:, 0] = ~shown | near.any(1) | (read.facts[:, NEXT] >= 0)
        first = reading.FIRST_TARGET
        done[:, first : first + len(TARGETS)] |= (status & FRONT) > 0
        done[:, first + len(TARGETS) :] |= (status & HERE) > 0
        return done

    def option_done(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each option [N] is over."""
        return self.options_done(obs)[np.arange(len(obs)), option]

    def option_achieved(self, before: Obs, after: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the step between two observations did what each option [N] is for."""
        was, now, each = self._read(before), self._read(after), np.arange(len(before))
        held, holds = was.facts[:, IN_HAND] >= 0, now.facts[:, IN_HAND] >= 0
        explored = (now.parts.image[..., 0] == 0).sum((1, 2)) < (was.parts.image[..., 0] == 0).sum((1, 2))
        used = (was.facts[:, AHEAD] != now.facts[:, AHEAD]) & (was.parts.image[..., 3] == now.parts.image[..., 3]).all(
            (1, 2)
        )
        cleared = now.facts[:, AT] > 0
        simple = np.stack(
            [explored, ~held & holds, held & ~holds, used, now.facts[:, ASIDE] == JUST_HERE, cleared], axis=1
        )
        goto, beside = (now.status & FRONT) > 0, ((now.status & HERE) > 0) & holds[:, None]
        led = np.concatenate([simple, goto, beside], axis=1)
        return led[each, option] & legality(was.status, was.facts)[each, option]

    def script(self, scene: Scene) -> int:
        """The expert's option for a scene of this task, from its facts alone."""
        return self._index[expert(from_strings(scene.facts))]

    def skill(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.int64]:
        """Primitive action [N] of each option's scripted executor; 6 (wait) where it can do nothing."""
        return self.plan(obs, option)[:, 0].copy()

    def ground(self, obs: Obs, option: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cell (x, y) [N, 2] from which each option will act, the agent's own if it cannot; scale one cell [N, 2]."""
        mean = self.plan(obs, option)[:, 2:].astype(np.float32)
        return mean, np.ones_like(mean)

    def plan(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.int64]:
        """Columns [N, 4] as `GridTask.plan` has them."""
        out, found = np.empty((len(obs), 4), np.int64), parts(obs)
        cleared, clears = np.full(len(obs), -1), np.flatnonzero(option == reading.CLEAR)
        if len(clears):
            cleared[clears] = self._read(obs[clears]).facts[:, CLEARED]
        option = np.require(option, np.int64, ["C", "W"])
        planning.plan(found.image, found.frame, option, cleared, self._sight, out)
        return out


def _asked_of(text: str) -> tuple[list[int], list[int], int]:
    """A row of `_Asked`."""
    mission, targets, aims = understood(text), [-1] * SLOTS, [reading.REACH] * SLOTS
    for slot, what in slots(mission):
        opens = mission.clauses[slot // 2].verb == "open"
        targets[slot], aims[slot] = (
            NUMBER[what],
            reading.PLACE if slot % 2 else reading.OPEN if opens else reading.REACH,
        )
    return targets, aims, len(mission.first)

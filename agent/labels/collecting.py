"""Scenes of a task as they are met in play: a stream that is the same whenever it is drawn, each scene in it once."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from preceptor.agent.resumable import Resumable, places
from preceptor.agent.runs.checkpoint import tree_from_bytes
from preceptor.envs.task import Scene, Task, defines, lacking
from preceptor.ground.errors import UserError
from preceptor.teacher.labels import Reached

_PLAYED = 256  # environments side by side
_ERRS = 0.3  # share of random actions of `script`, which meets little of a task where it does everything right
_IN_VAIN = 1_000  # steps of all environments without a new scene, after which the task is taken to have no more


class Stream(Resumable):
    """Distinct scenes with a choice, until no new ones are met; two numbers of each are kept.

    Args:
        task: What is played, in levels for training.
        player: `random` primitive actions, or `script`: the task's expert, which errs now and then.
        seed: Of levels and actions.

    Attributes:
        scenes: How many have been met.

    Raises:
        UserError: There is no such expert.
    """

    saved = places("env", "scenes", obs="_obs", vain="_vain", acts="env.action_space.np_random", errs="_rng")

    def __init__(self, task: Task, player: str, seed: int) -> None:
        for member in ("script", "skill") if player == "script" else ():
            if not defines(task, member):
                raise lacking(task, member)
        levels, acting, erring = np.random.SeedSequence(seed).generate_state(3).tolist()
        self.env, self._rng = task.make_vec(_PLAYED, seed=levels), np.random.default_rng(erring)
        self.env.action_space.seed(acting)
        self._task, self._player = task, player
        self._obs, _ = self.env.reset()
        self.scenes = self._vain = 0
        # The codes are there to describe less: without those of another process the scenes are the same.
        self._codes, self._hashes, self._untold = set[int](), set[int](), list[int]()

    def __iter__(self) -> Iterator[list[Scene]]:
        """Those of a step together. Raises `UserError` if there is no scene with a choice."""
        while self._vain < _IN_VAIN:
            new = self._new()
            self._play()
            if new:
                yield new
        self.env.close()
        if not self._hashes:
            raise UserError(f"{self._task.name} has no scene in which there is a choice.", "another --task")

    def place(self) -> dict[str, Any] | None:
        """Where it stands, after the scenes that it gave last; None in environments whose state cannot be had."""
        if not hasattr(self.env, "get_state"):
            return None
        hashes, self._untold = np.array(self._untold, "<u8").tobytes(), []
        return {"scenes": self.scenes, "hashes": hashes, "state": self.state_dict()}

    def go_on(self, reached: Reached) -> None:
        """Go on from a place that was written. Raises `UserError` or `ValueError` if it is of something else."""
        self._hashes = set(np.frombuffer(reached.hashes, "<u8").tolist())
        if len(self._hashes) != reached.scenes:
            raise ValueError("not all scenes before that place are known")
        self.load_state_dict(tree_from_bytes(reached.state))

    def _new(self) -> list[Scene]:
        """The scenes of the environments that were not met before."""
        distinct, first = np.unique(self._task.fact_codes(self._obs), return_index=True)
        # In the order in which they are met; what `describe` is asked for is the slow part.
        pairs = zip(distinct.tolist(), first.tolist(), strict=True)
        fresh = sorted(i for code, i in pairs if code not in self._codes)
        self._codes.update(distinct.tolist())
        scenes = [scene for scene in self._task.describe(self._obs[fresh]) if len(scene.legal) > 1] if fresh else []
        new = {_hash(scene): scene for scene in scenes}
        new = {code: scene for code, scene in new.items() if code not in self._hashes}
        self._hashes.update(new)
        self._untold += new
        self.scenes += len(new)
        self._vain = 0 if new else self._vain + 1
        return list(new.values())

    def _play(self) -> None:
        acts = self.env.action_space.sample()
        if self._player == "script":
            options = np.array([self._task.script(scene) for scene in self._task.describe(self._obs)])
            right = (self._rng.random(_PLAYED) >= _ERRS).reshape(-1, *[1] * (acts.ndim - 1))
            acts = np.where(right, self._task.skill(self._obs, options), acts)
        self._obs = self.env.step(acts)[0]


def _hash(scene: Scene) -> int:
    """Of the facts, and the same in each process, as Python's own is not."""
    return int.from_bytes(hashlib.blake2b(json.dumps(scene.facts).encode(), digest_size=8).digest(), "little")

"""The agents that are served: loaded from runs or exports, of each as many versions as are played."""

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.acting import Table, batch_of
from preceptor.agent.config import from_plain
from preceptor.agent.evaluate import load_method
from preceptor.agent.export.playing import MANIFEST, is_export, load_player, read_manifest
from preceptor.agent.relearning import LEARNED, can_learn, learned_runs
from preceptor.agent.runs.run import Run
from preceptor.controller.checkpoint import load_controller
from preceptor.controller.roles import Controller
from preceptor.envs.catalog import get_task
from preceptor.envs.task import Task
from preceptor.ground.errors import UserError, unknown_name
from preceptor.ground.sealed import file_digest
from preceptor.serving.policy.protocol import Refused

_COMPARED = (4, 5, 7, 16, 33, 64)  # rows of the batches that are compared


@dataclass(eq=False, frozen=True)
class Playing:
    """One version of an agent in memory; what happens to its files does not concern it any more.

    Attributes:
        name: Of the agent.
        version: Step and digest of its checkpoint.
        method: By which it was trained.
        run: Where, or its export.
        table: Its task and its network, at which sessions sit.
        controller: What labels, where the run has one.
        can_learn: Whether its controller can be distilled again.
        learned: What is told of a version that was learned at play; None of one that was trained.
    """

    name: str
    version: str
    method: str
    run: Path
    table: Table
    controller: Controller | None
    can_learn: bool = False
    learned: dict[str, Any] | None = None

    @property
    def task(self) -> Task:
        """What it plays."""
        return self.table.task

    @cached_property
    def options(self) -> list[str]:
        """Its options in words; none where it chooses vectors."""
        return [] if self.table.player.transition.size else [option.words for option in self.task.options]

    @property
    def chooses_options(self) -> bool:
        """Whether its high level chooses among the task's options; otherwise it chooses vectors, or nothing."""
        return bool(self.options) and len(self.table.player.timeouts) == len(self.task.options) > 1

    @property
    def has_high_level(self) -> bool:
        """Whether anything is chosen that runs for a while."""
        return self.chooses_options or self.table.player.transition.size > 0

    @cached_property
    def batched(self) -> bool:
        """Whether each row of a batch comes out the same, to the bit, in batches of any size: it is tried out.

        An agent of which that is not so plays each session by itself.
        """
        if not self.table.player.free:
            return False
        env = self.task.make_vec(max(_COMPARED), split="eval", seed=0)
        try:
            obs, _ = env.reset()
        finally:
            env.close()

        def played(rows: int) -> list[NDArray[Any]]:
            seat = self.table.seat(rows, None)
            (decision,) = self.table.decide([seat], [obs[:rows]], [np.ones(rows, np.bool_)])
            return [decision.action, seat.clock.option, seat.clock.command, decision.ended]

        whole = played(len(obs))
        return all(np.array_equal(a, b[:n]) for n in _COMPARED for a, b in zip(played(n), whole, strict=True))

    def batch_of(self, obs: Any, environments: int | None = None) -> NDArray[Any]:
        """Observations [N, ...] of what a client sent.

        Raises:
            Refused: They are of another shape, kind or number, or no numbers that the environment could give.
        """
        try:
            found = obs if isinstance(obs, Mapping) else np.asarray(obs)
            if isinstance(found, np.ndarray):
                whole = len(self.task.observation_shape) == 3  # maps hold codes
                if found.dtype.kind not in ("biu" if whole else "biuf"):
                    raise Refused(422, f"obs: {'whole ' * whole}numbers are expected, not {found.dtype}.")
                if whole and found.size and not (found.min() >= 0 and found.max() <= 255):
                    raise Refused(422, "obs: codes are from 0 to 255.")
            batch, _ = batch_of(self.task, found)
        except UserError as error:
            raise Refused(
                422, f"obs: {error.what}", f"GET /v1/agents tells the shape that {self.name} plays"
            ) from error
        except (OverflowError, TypeError, ValueError) as error:  # ragged lists
            raise Refused(422, f"obs: {error}.", f"GET /v1/agents tells the shape that {self.name} plays") from error
        if environments is not None and len(batch) != environments:
            raise Refused(422, f"obs: {len(batch)} observations, and the session has {environments} environments.")
        return batch


class Agents:
    """Agents by name, and of each its versions, the newest last.

    Args:
        runs: Runs, or paths of theirs or of exports, by the agents' names.
        logdir: Where runs are looked for.
        learns: Whether what runs have learned at play is played, where there is something; they all must be able to.
    """

    def __init__(self, runs: Mapping[str, str], logdir: str, *, learns: bool = False) -> None:
        self._runs, self._logdir, self._learns, self._lock = dict(runs), logdir, learns, threading.Lock()
        self._versions: dict[str, list[Playing]] = {name: [self._load(name)] for name in runs}

    def reload(self, name: str) -> Playing:
        """Read an agent's run again; sessions from now on get what it has saved meanwhile, others go on as they are.

        Raises:
            Refused: There is no such agent, or its files cannot be read; what was loaded goes on.
        """
        self.find(name)
        try:
            new = self._load(name)
        except UserError as error:
            raise Refused(409, f"{name} was not loaded again: {error.what}", error.next_step) from error
        with self._lock:
            others = [old for old in self._versions[name] if old.version != new.version]
            same = [old for old in self._versions[name] if old.version == new.version]
            self._versions[name] = [*others, *(same or [new])]
            return self._versions[name][-1]

    def find(self, name: str | None) -> Playing:
        """The newest version of a name, or the one of NAME@VERSION; None is the only agent. Raises `Refused`."""
        with self._lock:
            if name is None:
                if len(self._versions) > 1:
                    raise Refused(422, f"agent: there are {len(self._versions)}: {', '.join(self._versions)}.")
                (name,) = self._versions
            wanted, _, version = name.partition("@")
            if wanted not in self._versions:
                raise Refused(404, str(unknown_name("agent", wanted, self._versions)), "GET /v1/agents")
            for playing in reversed(self._versions[wanted]):
                if version in ("", playing.version):
                    return playing
        if (earlier := self._earlier(wanted, version)) is not None:
            with self._lock:
                self._versions[wanted].insert(0, earlier)
            return earlier
        raise Refused(409, f"{wanted} is not here as version {version} any more.", "GET /v1/agents, and open a session")

    def drop_unused(self, used: set[Playing]) -> None:
        """Forget old versions that no session plays."""
        with self._lock:
            for name, versions in self._versions.items():
                self._versions[name] = [v for v in versions if v in used or v is versions[-1]]

    def all(self) -> list[tuple[Playing, bool]]:
        """Every version, and whether it is the newest."""
        with self._lock:
            return [(each, each is versions[-1]) for versions in self._versions.values() for each in versions]

    def _load(self, name: str) -> Playing:
        """The agent as its run saved it last, or as it has learned since, or as its export is. Raises `UserError`."""
        place = self._runs[name]
        if is_export(place):
            playing = self._exported(name, Path(place))
        else:
            home, *learned = self._places(name)
            playing = self._trained(name, home, (learned or [home])[-1])
        if self._learns and not (playing.can_learn and playing.chooses_options):
            what = f"--learn: {name} has no controller that could be distilled again."
            raise UserError(what, f"python main.py serve --agent {place} --teacher local  # which learns nothing")
        _ = playing.batched  # tried out before anyone waits
        return playing

    def _places(self, name: str) -> list[Run]:
        """The run of an agent, and what it has learned at play, the newest last. Raises `UserError`."""
        run = Run.find(self._logdir, None, None, self._runs[name])
        return [run, *(learned_runs(run) if self._learns and run.last_step is not None else [])]

    def _earlier(self, name: str, version: str) -> Playing | None:
        """A version that an earlier server played, and that is still on the disk; None if it is not."""
        with contextlib.suppress(UserError):
            places = self._places(name) if self._learns else []
            for run in places:
                if run.version == version:
                    return self._trained(name, places[0], run)
        return None

    def _trained(self, name: str, home: Run, run: Run) -> Playing:
        """What a run has saved last: the agent's own, or one that was learned from it."""
        config = from_plain(run.config)
        task = get_task(config.task)
        method = load_method(run, task)
        return Playing(
            name,
            run.version,
            config.method,
            home.path,
            Table(task, method.player),
            load_controller(run.controller, task) if run.controller.exists() else None,
            can_learn(config, method),
            run.manifest().get(LEARNED) if run is not home else None,
        )

    def _exported(self, name: str, folder: Path) -> Playing:
        said, (task, player) = read_manifest(folder), load_player(folder)
        version = f"{said['run']['step']}-{file_digest(folder / MANIFEST)[:8]}"
        return Playing(name, version, str(said["run"]["method"]), folder, Table(task, player), None)

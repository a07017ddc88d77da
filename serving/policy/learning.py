"""Served agents that learn from their fallback teachers (`--learn`): in a process of its own, one after the other.

What a teacher has said is kept with what was observed. Once so many new scenes have come, the controller is distilled
again (`agent/relearning.py`, niced, on one core), and where it is at least as good on held-out scenes, new sessions get
it. The state is on the disk alone: a server that is killed begins again with what an unfinished attempt had begun with.
"""

import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.asked_scenes import AskedScenes
from preceptor.agent.relearning import FEWEST_HELD_OUT, SCENES, drop_old
from preceptor.ground.errors import UserError
from preceptor.ground.program import findable
from preceptor.serving import watchdog
from preceptor.serving.config import FallbackConfig
from preceptor.serving.policy.agents import Agents, Playing
from preceptor.serving.policy.measured import Measured
from preceptor.serving.policy.protocol import Refused
from preceptor.teacher.base import Label

_GRACE_SECONDS, _PAUSE_SECONDS = 1.0, 0.2
_log = logging.getLogger("preceptor.policy")


class Learning:
    """Distils the agents of a server again.

    Args:
        agents: What is served; those that cannot learn are not among them.
        measured: What is counted.
        config: After how many new labelled scenes a controller is distilled again, and how many versions are kept.
        played: The versions that sessions play, those of an earlier server included.
    """

    def __init__(
        self, agents: Agents, measured: Measured, config: FallbackConfig, played: Callable[[], set[str]]
    ) -> None:
        self._agents, self._measured, self._played = agents, measured, played
        self._after, self._keep = config.learn_after, config.learn_keep
        self._scenes: dict[Path, AskedScenes] = {}
        self._ends, self._lock, self._wake = False, threading.Lock(), threading.Event()
        self._changed: dict[Path, Playing] = {}  # with each run one that plays it
        self._child: subprocess.Popen[bytes] | None = None
        for playing, newest in agents.all():
            if newest and playing.run not in self._scenes:
                self._scenes[playing.run] = AskedScenes(playing.run / SCENES, playing.task)
                self._look_at(playing)  # at what an earlier server left
        self._thread = threading.Thread(target=self._run, name="learning", daemon=True)
        self._thread.start()

    def keep(
        self, playing: Playing, obs: NDArray[Any], previous: NDArray[np.int64], labels: Sequence[Label | str]
    ) -> None:
        """Keep what a teacher has said of observations [M, ...] before which options [M] ran; in any thread."""
        rows = [i for i, label in enumerate(labels) if isinstance(label, Label) and not label.abstained]
        if not rows:
            return
        probs = np.array([label.probs for label in labels if isinstance(label, Label) and not label.abstained])
        try:
            self._scenes[playing.run].add(obs[rows], previous[rows], probs)
        except UserError as error:  # the answer stands all the same
            _log.warning("not kept", extra={"agent": playing.name, "why": str(error)})
            return
        self._look_at(playing)

    def end(self) -> None:
        """Learn nothing more; an attempt is broken off, and begun again by the next server."""
        with self._lock:
            self._ends = True
            if self._child is not None and self._child.stdin is not None:
                self._child.stdin.close()
        self._wake.set()
        self._thread.join(timeout=2 * _GRACE_SECONDS + 5)
        for scenes in self._scenes.values():
            scenes.close()

    def _look_at(self, playing: Playing) -> None:
        with self._lock:
            self._changed[playing.run] = playing
        self._wake.set()

    def _run(self) -> None:
        while self._wake.wait():
            with self._lock:
                if self._ends:
                    return
                self._wake.clear()
                changed, self._changed = self._changed, {}
            for playing in changed.values():
                try:
                    self._look(playing)
                except Exception:  # whatever it is, it is tried again when more has come
                    _log.exception("learning failed")
            time.sleep(_PAUSE_SECONDS)  # of many answers, not each is looked at

    def _look(self, playing: Playing) -> None:
        """Learn if enough has come."""
        scenes = self._scenes[playing.run]
        new, learned, held = scenes.counted()
        self._measured.labels_waiting.labels(playing.name).set(new)
        if self._ends or new < self._after or held < FEWEST_HELD_OUT or not learned:
            return
        before = (scenes.last() or {"id": 0})["id"]
        _log.info("learning", extra={"agent": playing.name, "new": new, "scenes": learned, "held_out": held})
        why = self._distil(playing.run)
        if self._ends:
            return
        last = scenes.last()
        if last is None or last["id"] == before:
            scenes.note("failed", {"why": why})
            last = {"outcome": "failed", "why": why}
        told = {key: value for key, value in last.items() if key not in ("id", "upto")}
        _log.log(logging.WARNING if "why" in told else logging.INFO, "distilled", extra={"agent": playing.name, **told})
        self._measured.distillations.labels(playing.name, told["outcome"]).inc()
        self._measured.labels_waiting.labels(playing.name).set(scenes.counted()[0])
        if told["outcome"] == "learned":
            for each, newest in self._agents.all():
                if newest and each.run == playing.run:
                    self._load(each.name)
            self._drop_old(playing)

    def _load(self, name: str) -> None:
        try:
            playing = self._agents.reload(name)
        except Refused as error:
            _log.warning("not loaded", extra={"agent": name, "why": str(error)})
        else:
            _log.info("loaded", extra={"agent": name, "version": playing.version})

    def _drop_old(self, playing: Playing) -> None:
        """Remove versions from the disk that nobody plays, nor can open."""
        here = {each.version for each, _ in self._agents.all()}
        try:
            gone = drop_old(playing.run, self._keep, here | self._played())
        except (OSError, UserError) as error:  # the next version tries again
            _log.warning("not removed", extra={"agent": playing.name, "why": str(error)})
        else:
            _log.info("removed", extra={"agent": playing.name, "learned": gone})

    def _distil(self, run: Path) -> str:
        """Let another process do it, which ends with this one, however that ends; the end of what it said."""
        words = [sys.executable, "-I", "-S", watchdog.__file__, str(_GRACE_SECONDS)]
        words += [sys.executable, "-m", "preceptor.agent.relearning", str(run)]
        with tempfile.TemporaryFile() as said:
            with self._lock:
                if self._ends:
                    return ""
                self._child = subprocess.Popen(
                    words,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    env=findable(os.environ | {"OMP_NUM_THREADS": "1"}),
                    start_new_session=True,
                )
            code = self._child.wait()
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            return f"exit code {code}: {lines[-1] if lines else 'it said nothing'}"

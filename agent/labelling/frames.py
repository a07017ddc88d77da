"""Pictures of demonstrations: each is played again on its level, off screen, and drawn before it is looked at."""

import io
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.data.recording import Recording
from agent.labelling.background import Background, Place
from agent.runs.pictures import drawn
from envs.task import Task
from ground.errors import UserError

_KEPT = 256 * 2**20  # bytes of pictures in memory
_AROUND = 4  # steps on either side of one that is asked about, which are drawn before the rest
_Steps = tuple[int, list[int]]  # trajectory, steps of it


class Frames(Background[_Steps]):
    """Draws in a thread of its own, since drawing contexts belong to the thread that made them.

    Args:
        task: What was demonstrated.
        recording: The demonstrations, with their levels.
    """

    def __init__(self, task: Task, recording: Recording) -> None:
        self._task, self._recording = task, recording
        self._drawn: OrderedDict[Place, bytes] = OrderedDict()
        self._urgent: dict[Place, None] = {}  # a request waits for these
        self._replay: _Replay | None = None  # kept, since the first picture of a level takes long
        self._bytes = 0
        super().__init__("frames")

    def get(self, trajectory: int, step: int, patience: float = 1.0) -> bytes | None:
        """A picture as PNG, waited for so many seconds; None if it is not drawn by then, or there is no such step."""
        if not (0 <= trajectory < len(self._recording) and 0 <= step < self._recording.lengths[trajectory]):
            return None
        with self._change:
            if (trajectory, step) not in self._drawn:
                self._urgent[trajectory, step] = None
            self._wait_for(lambda: (trajectory, step) in self._drawn or self.trouble is not None, patience)
            return self._drawn.get((trajectory, step))

    def _job(self) -> _Steps | None:
        if self.trouble:
            return None
        while self._urgent:
            trajectory, step = place = next(iter(self._urgent))
            del self._urgent[place]
            if place not in self._drawn:
                return trajectory, [step]
        # Around each question first; then all the rest, as far as it does not drive out what was just drawn.
        for near in (_AROUND, max(self._recording.lengths)) if self._bytes < _KEPT / 2 else (_AROUND,):
            for trajectory, step in self._wanted:
                steps = range(max(0, step - near), min(self._recording.lengths[trajectory], step + near + 1))
                if lacking := [t for t in steps if (trajectory, t) not in self._drawn]:
                    return trajectory, sorted(lacking, key=lambda t: abs(t - step))[: 2 * _AROUND + 1]
        return None

    def _do(self, job: _Steps) -> None:
        """Draw some steps of a demonstration, with the replay that is there unless that is beyond them."""
        trajectory, steps = job
        if self._replay is None or self._replay.trajectory != trajectory or self._replay.step > min(steps):
            self._put_away()
            self._replay = _Replay(self._task, self._recording, trajectory)
        for step in sorted(steps):
            if not self._closing:
                picture = self._replay.picture(step)
                with self._change:
                    self._drawn[trajectory, step] = picture
                    self._bytes += len(picture)
                    while self._bytes > _KEPT:
                        self._bytes -= len(self._drawn.popitem(last=False)[1])
                    self._change.notify_all()

    def _work(self) -> None:
        try:
            super()._work()
        finally:
            self._put_away()

    def _put_away(self) -> None:
        replay, self._replay = self._replay, None
        if replay is not None:
            replay.close()


class _Replay:
    """A demonstration played again on its level, forwards only; `step` is where it stands.

    Raises:
        UserError: The level is not known.
    """

    def __init__(self, task: Task, recording: Recording, trajectory: int) -> None:
        level = int(recording.level_seed[trajectory])
        self.trajectory, self.step = trajectory, 0
        self._recording = recording
        self._again = f"python main.py demos --task {task.name} --to NAME  # records new ones, with their levels"
        if level < 0:
            raise UserError("These demonstrations do not tell their levels, so they cannot be drawn.", self._again)
        self._env = task.make_single(level)
        self.close = self._env.close

    def picture(self, step: int) -> bytes:
        """A step that is not behind where the replay stands, as PNG, packed quickly: it stays on this machine.

        Raises:
            UserError: It cannot be drawn, or is not what was recorded.
        """
        while self.step < step:
            obs = self._env.step(self._recording.action[self.trajectory, self.step])[0]
            self.step += 1
            self._compare(obs)
        written = io.BytesIO()
        Image.fromarray(drawn(self._env)).save(written, "PNG", compress_level=1)
        return written.getvalue()

    def _compare(self, obs: object) -> None:
        """Where observations can be compared, what is played again must be what was recorded."""
        seen: NDArray = self._recording.obs[self.trajectory, self.step]
        if isinstance(obs, np.ndarray) and obs.shape == seen.shape and not np.allclose(obs, seen, atol=1e-3):
            what = f"Demonstration {self.trajectory} took another course when it was replayed to be drawn."
            raise UserError(what, self._again)

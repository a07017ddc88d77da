"""Pictures of demonstrations: each is played again on its level, off screen, and drawn before somebody looks at it."""

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.data.recording import Recording
from envs.mujoco.rendering import undrawable
from envs.task import Task
from ground.errors import UserError

_KEPT = 256 * 2**20  # bytes of pictures in memory
_AROUND = 4  # steps on either side of one that is asked about, which are drawn before the rest


class Frames:
    """Draws in a thread of its own, since drawing contexts belong to the thread that made them.

    Args:
        task: What was demonstrated.
        recording: The demonstrations, with their levels.

    Attributes:
        trouble: Why there are no pictures; None as long as there are some.
    """

    def __init__(self, task: Task, recording: Recording) -> None:
        self._task, self._recording = task, recording
        self._drawn: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._wanted: list[tuple[int, int]] = []
        self._looked_at: list[tuple[int, int]] = []  # somebody waits for these
        self._replay: Replay | None = None  # kept, since the first picture of a stage is dear
        self._change = threading.Condition()
        self._closing, self._bytes = False, 0
        self.trouble: str | None = None
        self._thread = threading.Thread(target=self._work, name="frames", daemon=True)
        self._thread.start()

    def want(self, steps: Sequence[tuple[int, int]]) -> None:
        """Say which steps (trajectory, step) will be looked at, the next one first; what was wanted before is not."""
        with self._change:
            self._wanted = list(steps)
            self._change.notify_all()

    def get(self, trajectory: int, step: int, patience: float = 1.0) -> bytes | None:
        """A picture as PNG, waited for so many seconds; None if it is not drawn by then, and where there is no such."""
        if not (0 <= trajectory < len(self._recording) and 0 <= step < self._recording.lengths[trajectory]):
            return None
        asked = (trajectory, step)
        with self._change:
            if asked not in self._drawn and asked not in self._looked_at:
                self._looked_at.append(asked)
                self._change.notify_all()
            self._change.wait_for(lambda: asked in self._drawn or self._closing or self.trouble, patience)
            return self._drawn.get(asked)

    def close(self) -> None:
        """End the thread."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._thread.join()

    def _work(self) -> None:
        try:
            while (job := self._next()) is not None:
                self._draw(*job)
        except UserError as error:
            with self._change:
                self.trouble = str(error)
                self._change.notify_all()
        finally:
            self._put_away()

    def _next(self) -> tuple[int, list[int]] | None:
        """A trajectory and the steps of it to draw; waits for some. None at the end."""
        with self._change:
            while not self._closing:
                while self._looked_at:
                    trajectory, step = self._looked_at.pop(0)
                    if (trajectory, step) not in self._drawn:
                        return trajectory, [step]
                for near in (True, False):  # what is asked about in all of them, then all the rest
                    for trajectory, step in self._wanted:
                        length = int(self._recording.lengths[trajectory])
                        steps = (
                            range(max(0, step - _AROUND), min(length, step + _AROUND + 1)) if near else range(length)
                        )
                        lacking = [t for t in steps if (trajectory, t) not in self._drawn]
                        if lacking:
                            return trajectory, sorted(lacking, key=lambda t: abs(t - step))[: 2 * _AROUND + 1]
                self._change.wait()
            return None

    def _draw(self, trajectory: int, steps: list[int]) -> None:
        """Draw some steps of a demonstration, with the replay of it that is there unless that is beyond them."""
        replay = self._replay
        if replay is None or replay.trajectory != trajectory or replay.step > min(steps):
            self._put_away()
            replay = self._replay = Replay(self._task, self._recording, trajectory)
        for step in sorted(steps):
            if not self._closing:
                self._store(trajectory, step, replay.picture(step))

    def _put_away(self) -> None:
        replay, self._replay = self._replay, None
        if replay is not None:
            replay.close()

    def _store(self, trajectory: int, step: int, picture: bytes) -> None:
        with self._change:
            self._drawn[trajectory, step] = picture
            self._change.notify_all()
            self._bytes += len(picture)
            while self._bytes > _KEPT:
                self._bytes -= len(self._drawn.popitem(last=False)[1])


class Replay:
    """A demonstration played again on its level, forwards only.

    Args:
        task: What was demonstrated.
        recording: The demonstrations.
        trajectory: Which of them.

    Attributes:
        step: Where it stands.

    Raises:
        UserError: The level is not known.
    """

    def __init__(self, task: Task, recording: Recording, trajectory: int) -> None:
        level = int(recording.level_seed[trajectory])
        if level < 0:
            raise UserError(
                "These demonstrations do not tell their levels, so that they cannot be drawn.",
                f"python main.py demos --task {task.name} --to NAME  # records some that do",
            )
        self.trajectory, self.step = trajectory, 0
        self._task, self._recording = task, recording
        self._stage = task.make_single(level)

    def picture(self, step: int) -> bytes:
        """The step, which is not behind where it stands, as PNG.

        Raises:
            UserError: It cannot be drawn, or came out otherwise than it was recorded.
        """
        while self.step < step:
            obs = self._stage.step(self._recording.action[self.trajectory, self.step])[0]
            self.step += 1
            self._compare(obs)
        try:
            rendered = self._stage.render()
        except UserError:
            raise
        except Exception as error:  # each of Gymnasium's environments has its own way to say that it cannot draw
            raise undrawable(type(self._stage.unwrapped).__name__, error) from error
        if not isinstance(rendered, np.ndarray):
            raise UserError(f"{self._task.name} cannot be drawn.", "label it by the words of its scenes")
        return png(rendered)

    def close(self) -> None:
        """Free what drawing holds."""
        self._stage.close()

    def _compare(self, obs: object) -> None:
        """Where observations can be compared, what is played again must be what was recorded."""
        seen = self._recording.obs[self.trajectory, self.step]
        if isinstance(obs, np.ndarray) and obs.shape == seen.shape and not np.allclose(obs, seen, atol=1e-3):
            raise UserError(
                f"Demonstration {self.trajectory} came out otherwise when it was played again to be drawn.",
                f"python main.py demos --task {self._task.name} --to NAME  # records new ones",
            )


def png(picture: NDArray[np.uint8]) -> bytes:
    """A picture [H, W, 3] as PNG, packed quickly rather than well: it goes no further than this machine."""
    written = io.BytesIO()
    Image.fromarray(np.asarray(picture, np.uint8)).save(written, "PNG", compress_level=1)
    return written.getvalue()

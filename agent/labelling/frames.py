"""Pictures of demonstrations: each is played again on its level, off screen."""

import io
from collections.abc import Generator
from contextlib import closing
from functools import partial

import gymnasium as gym
import numpy as np
from PIL import Image

from preceptor.agent.data.recording import Recording
from preceptor.agent.labelling.background import Background, Place
from preceptor.agent.runs.pictures import drawn
from preceptor.envs.task import Task
from preceptor.ground.errors import UserError

_KEPT = 1000  # pictures in memory
_AROUND = 4  # steps on either side of one that is looked at, which are drawn with it


class Frames:
    """Draws in a thread of its own, since drawing contexts belong to the thread that made them."""

    def __init__(self, task: Task, recording: Recording) -> None:
        self.trouble: str | None = None  # why nothing is drawn any more
        self._task, self._recording = task, recording
        self._drawn: dict[Place, bytes] = {}
        self._at: Place = (-1, -1)  # where the replay stands, which is kept: a level's first picture takes long
        self._replay: Generator[gym.Env] = (env for env in list[gym.Env]())
        self._thread = Background("frames", last=lambda: self._replay.close())
        self.close = self._thread.close

    def get(self, trajectory: int, step: int, patience: float = 1.0) -> bytes | None:
        """A picture as PNG, waited for so many seconds; None if it is not drawn by then, or there is no such step."""
        place = trajectory, step
        if not (0 <= trajectory < len(self._recording) and 0 <= step < self._recording.lengths[trajectory]):
            return None
        if place not in self._drawn and self.trouble is None:
            self._thread.submit(partial(self._draw, *place)).wait(patience)
        return self._drawn.get(place)

    def _draw(self, trajectory: int, step: int) -> None:
        """Draw a step and those around it, with the replay that is there unless that is beyond them."""
        near = range(max(0, step - _AROUND), min(int(self._recording.lengths[trajectory]), step + _AROUND + 1))
        lacking = [t for t in near if (trajectory, t) not in self._drawn]
        if self.trouble is not None or step not in lacking:
            return
        try:
            if self._at[0] != trajectory or self._at[1] >= lacking[0]:
                self._replay.close()
                self._replay, self._at = replayed(self._task, self._recording, trajectory), (trajectory, -1)
            while self._at[1] < lacking[-1] and not self._thread.closing:
                env = next(self._replay)
                self._at = trajectory, self._at[1] + 1
                if self._at[1] in lacking:
                    written = io.BytesIO()  # packed quickly: it stays on this machine
                    Image.fromarray(drawn(env)).save(written, "PNG", compress_level=1)
                    self._drawn[self._at] = written.getvalue()
        except UserError as error:
            self.trouble = str(error)
        while len(self._drawn) > _KEPT:
            del self._drawn[next(iter(self._drawn))]


def replayed(task: Task, recording: Recording, trajectory: int) -> Generator[gym.Env]:
    """A demonstration played again on its level: the environment at each of its steps.

    Raises `UserError` if the level is not known, or the demonstration took another course, as far as arrays tell.
    """
    level = int(recording.level_seed[trajectory])
    again = f"python main.py demos --task {task.source} --to NAME  # records new ones, with their levels"
    if level < 0:
        raise UserError("These demonstrations do not tell their levels, so they cannot be drawn.", again)
    with closing(task.make_single(level)) as env:
        yield env
        for step in range(1, int(recording.lengths[trajectory])):
            action, was = recording.action[trajectory, step - 1], recording.obs[trajectory, step]
            obs = env.step(task.to_gymnasium(action))[0]
            if isinstance(obs, np.ndarray) and obs.shape == was.shape and not np.allclose(obs, was, atol=1e-3):
                raise UserError(f"Demonstration {trajectory} took another course when it was replayed.", again)
            yield env

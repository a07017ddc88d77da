"""Chunks of actions with what came of them, of demonstrations and of what is played, for learners off the policy.

Where observations tell the time, nothing comes after the time limit: it counts as an end (Pardo et al., 2018). The
state there is never begun from, and its value, which nothing corrects, would grow without bound.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.data.recording import Recording
from preceptor.agent.data.store import TrajectoryStore
from preceptor.agent.data.views import chunks, sample_segments, windows
from preceptor.envs.task import Task


class ChunkBatch(NamedTuple):
    """B chunks of h actions.

    Attributes:
        obs: [B, ...], where they begin.
        action: float32 [B, h A].
        inside: bool [B, h], the actions that were chosen for a reason; the others are uniform.
        reward: float32 [B], summed with its discount.
        next_obs: [B, ...], after the last action.
        discount: float32 [B], of the value there: gamma to their number, and zero at an end.
    """

    obs: NDArray
    action: NDArray[np.float32]
    inside: NDArray[np.bool_]
    reward: NDArray[np.float32]
    next_obs: NDArray
    discount: NDArray[np.float32]


class ChunkReplay:
    """Samples chunks.

    Args:
        task: What is played; its actions are vectors.
        store: What is played.
        played: h, actions of a chunk that are played.
        gamma: Discount per step.
        rng: Samples them.
    """

    def __init__(self, task: Task, store: TrajectoryStore, played: int, gamma: float, rng: np.random.Generator) -> None:
        self._store, self._played, self._gamma, self._rng = store, played, gamma, rng
        self._tells_time, self._width = task.tells_time, played * task.num_actions

    def begin(self, recording: Recording) -> None:
        """Sample chunks of these demonstrations."""
        self.recording, self._windows = recording, windows(recording, self._played)

    @property
    def any_lived(self) -> bool:
        """Whether a chunk that was played has ended."""
        return self._store.total > self._played

    def sample(self, count: int, share: float) -> ChunkBatch:
        """So many chunks, a share of them recorded and the others played."""
        some = round(share * count)
        parts = [self.recorded(some)] if some else []
        if some < count:
            parts.append(self.lived(count - some))
        return ChunkBatch(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def recorded(self, count: int) -> ChunkBatch:
        """Of the demonstrations. What was not done any more, since the episode ended, is uniform: it does not matter,
        and must not tell that the end is near."""
        recording, view = self.recording, self._windows
        rows = self._rng.integers(len(view), size=count)
        batch = chunks(recording, view, rows, self._gamma)
        anything = self._rng.uniform(-1, 1, batch.action.shape).astype(np.float32)
        action = np.where(batch.inside[..., None], batch.action, anything)
        last = view.start[rows] + view.count[rows] == recording.lengths[view.episode[rows]] - 1
        discount = batch.discount * ~(last & self._tells_time)
        return ChunkBatch(batch.obs, action.reshape(count, -1), batch.inside, batch.reward, batch.next_obs, discount)

    def lived(self, count: int) -> ChunkBatch:
        """Of what was played."""
        found, gamma = sample_segments(self._store, self._rng, count, self._played), self._gamma
        reward = (found.reward * gamma ** np.arange(self._played)).sum(1).astype(np.float32)
        over = found.terminated | (found.truncated & self._tells_time)
        discount = np.where(over, 0.0, gamma**found.length).astype(np.float32)
        chosen = np.ones((count, self._played), np.bool_)  # all of it, even if the episode ended before it was played
        return ChunkBatch(found.obs[:, 0], found.command[:, : self._width], chosen, reward, found.final, discount)

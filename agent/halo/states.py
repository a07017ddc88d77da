"""What HALO's policies see of an observation: a number where states can be counted, features where not."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from agent.data.recording import Recording
from controller.encoders import NUM_TOKENS, GridEncoder
from envs.task import Task
from ground.errors import UserError

POLICIES = ("auto", "tabular", "neural")


@runtime_checkable
class Counted(Protocol):
    """A task whose observations fall into so many cells."""

    num_cells: int

    def cells(self, obs: NDArray) -> NDArray[np.int64]:
        """The cell [N] of each observation."""
        ...


@runtime_checkable
class Filtered(Protocol):
    """A task of which HALO sees a part (shared/reference/halo.md, section 2.1)."""

    halo_view: tuple[int, ...]


@dataclass(frozen=True)
class States:
    """Observations as policies read them.

    Attributes:
        task: Whose.
        counted: Whether a state is a number below `size`, or that many features.
        size: S, or D.
        columns: Which numbers are kept, int64 [C]: those that vary in the demonstrations.
        codes: Fact codes that occur in them, int64 [F], as one-hot features beside these; none where HALO sees a part.
    """

    task: Task
    counted: bool
    size: int
    columns: NDArray[np.int64]
    codes: NDArray[np.int64]

    @staticmethod
    def of(task: Task, recording: Recording, policies: str) -> "States":
        """States for demonstrations of a task.

        Args:
            task: The task.
            recording: Shows which features vary; a constant one tells nothing, and maps have thousands.
            policies: One of `POLICIES`.

        Raises:
            UserError: Tables are asked for where states cannot be counted.
        """
        countable = isinstance(task, Counted) and not task.continuous
        if policies == "tabular" and not countable:
            raise UserError(f"The states of {task.name} cannot be counted.", "--policies neural")
        if countable and policies != "neural":
            assert isinstance(task, Counted)
            return States(task, True, task.num_cells, *np.zeros((2, 0), np.int64))
        obs = recording.obs[recording.inside]
        numbers = _features(task)(obs)
        columns = np.flatnonzero(numbers.min(0) < numbers.max(0))
        codes = np.unique(task.fact_codes(obs))[: 0 if isinstance(task, Filtered) else None]
        return States(task, False, len(columns) + len(codes), columns, codes)

    @cached_property
    def _numbers(self) -> Callable[[NDArray], NDArray[np.float32]]:
        return _features(self.task)

    def __call__(self, obs: NDArray) -> NDArray:
        """States of observations [..., *shape]: int64 [...], or float32 [..., D]."""
        lead = obs.shape[: obs.ndim - len(self.task.observation_shape)]
        flat = obs.reshape(-1, *self.task.observation_shape)
        if self.counted:
            assert isinstance(self.task, Counted)
            return self.task.cells(flat).reshape(lead)
        features = self._numbers(flat)[:, self.columns]
        if len(self.codes):
            # What a teacher would read, as the network's own input: options follow from it, actions from the rest.
            facts = self.task.fact_codes(flat)[:, None] == self.codes
            features = np.concatenate([features, facts.astype(np.float32)], 1)
        return features.reshape(*lead, self.size)


def _features(task: Task) -> Callable[[NDArray], NDArray[np.float32]]:
    """Numbers of order one [N, D] from observations [N, ...]: a map's cells around the agent, or a scaled vector."""
    if len(task.observation_shape) == 3:
        encoder = GridEncoder(task.observation_shape)
        one_hot = np.eye(NUM_TOKENS, dtype=np.float32)
        return lambda obs: one_hot[encoder(obs).parts[0]].reshape(len(obs), -1)
    kept = np.array(task.halo_view if isinstance(task, Filtered) else range(task.observation_shape[0]))
    scale = np.array(task.observation_scale, np.float32)[kept]
    return lambda obs: (obs[:, kept] / scale).astype(np.float32)

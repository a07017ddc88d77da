"""The trajectory store: one column schema for all methods, time-major, in memory or memory-mapped."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.errors import UserError

_GIB = 2**30


def columns(observation_shape: tuple[int, ...], num_options: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Name -> (shape of one entry, dtype). The schema of DESIGN section 5, plus the option's own log-probability."""
    return {
        "obs": (observation_shape, np.uint8),
        "prev_option": ((), np.int64),  # option that ran before, -1 for none
        "option": ((), np.int64),
        "option_age": ((), np.int64),  # 0 where the option was chosen
        "option_logprob": ((), np.float32),  # of the option under whoever chose it
        "action": ((), np.int64),
        "behaviour_logprob": ((), np.float32),  # of the action under whoever acted
        "reward": ((), np.float32),
        "terminated": ((), np.bool_),
        "truncated": ((), np.bool_),
        "legal": ((num_options,), np.bool_),  # options that could be chosen
        "label_probs": ((num_options,), np.float32),  # zeros where nobody labelled
        "label_source": ((), np.int8),  # 0 nobody, 1 teacher
        "query_id": ((), np.int64),  # fact code of the labelled scene, -1 for none
        "guided": ((), np.bool_),  # the teacher acted here
        "env_id": ((), np.int64),
        "level_seed": ((), np.int64),
        "episode": ((), np.int64),
        "t": ((), np.int64),  # step within the episode
    }


class TrajectoryStore:
    """Steps of N worlds, [T, N] per column, appended one vector step at a time.

    Observations that an episode ended in (`final_obs`) are kept apart, because only ended episodes have one: truncated
    episodes bootstrap from it, and the row after it belongs to the next episode.

    Args:
        capacity: Vector steps that fit, T.
        num_envs: N.
        observation_shape: Shape of one observation (uint8).
        num_options: K.
        folder: Memory-map the columns there instead of holding them in memory.
        limit: Largest size in bytes that may be allocated.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        observation_shape: tuple[int, ...],
        num_options: int,
        *,
        folder: Path | None = None,
        limit: int = 8 * _GIB,
    ) -> None:
        self.capacity, self.num_envs = capacity, num_envs
        schema = columns(observation_shape, num_options)
        self.nbytes = sum(
            capacity * num_envs * int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            for shape, dtype in schema.values()
        )
        if self.nbytes > limit:
            raise UserError(
                f"A store of {capacity} x {num_envs} steps needs {self.nbytes / _GIB:.1f} GiB, "
                f"more than the {limit / _GIB:.1f} GiB allowed.",
                "lower --num-envs or the rollout length",
            )
        self._columns: dict[str, NDArray] = {}
        for name, (shape, dtype) in schema.items():
            full = (capacity, num_envs, *shape)
            if folder is None:
                self._columns[name] = np.zeros(full, dtype)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                self._columns[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, full)
        self.clear()

    def __len__(self) -> int:
        """Vector steps stored."""
        return self._length

    def clear(self) -> None:
        """Forget everything."""
        self._length = 0
        self._final_rows: list[NDArray[np.int64]] = []
        self._final_obs: list[NDArray[np.uint8]] = []

    def append(self, *, ended: NDArray[np.bool_], final_obs: NDArray[np.uint8] | None, **values: NDArray) -> None:
        """Add one vector step: every column as [N, ...], and the last observation of the episodes that `ended` [N]."""
        if self._length == self.capacity:
            raise IndexError(f"the store is full ({self.capacity} vector steps)")
        row = self._length
        for name, column in self._columns.items():
            column[row] = values[name]
        if final_obs is not None and ended.any():
            worlds = np.flatnonzero(ended)
            self._final_rows.append(np.stack([np.full(len(worlds), row), worlds], axis=1))
            self._final_obs.append(final_obs[worlds])
        self._length += 1

    def column(self, name: str, start: int = 0) -> NDArray:
        """Rows from `start` on of a column, [T - start, N, ...], not copied."""
        return self._columns[name][start : self._length]

    def final_observations(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Where episodes ended, (time, world) [M, 2], and what was observed there [M, ...]."""
        if not self._final_rows:
            shape = self._columns["obs"].shape[2:]
            return np.zeros((0, 2), np.int64), np.zeros((0, *shape), np.uint8)
        return np.concatenate(self._final_rows), np.concatenate(self._final_obs)

    def state_dict(self) -> dict[str, Any]:
        """Everything stored, for an exact resume."""
        rows, obs = self.final_observations()
        filled = {name: column[: self._length] for name, column in self._columns.items()}
        return {"columns": filled, "final_rows": rows, "final_obs": obs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.clear()
        for name, column in state["columns"].items():
            self._columns[name][: len(column)] = column
            self._length = len(column)
        self._final_rows, self._final_obs = [state["final_rows"]], [state["final_obs"]]

"""The trajectory store: one column schema for all methods, time-major, in memory."""

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.envs.task import Task
from preceptor.ground.errors import UserError

_GIB = 2**30
Schema = dict[str, tuple[tuple[int, ...], Any]]  # name -> (shape of one entry, dtype)


def columns(task: Task, command_size: int = 0) -> Schema:
    """The columns of a task's steps, those that the task itself declares included (`Task.extra_columns`).

    Args:
        task: What is played.
        command_size: D of a high level that sets vectors; 0 for one that names options.
    """
    is_map = len(task.observation_shape) == 3  # maps are bytes, state vectors numbers
    options = (len(task.options),)
    schema: Schema = {
        "obs": (task.observation_shape, np.uint8 if is_map else np.float32),
        "prev_option": ((), np.int64),  # option that ran before, -1 for none
        "option": ((), np.int64),
        "command": ((command_size,), np.float32),  # the vector that runs, as it is at this step
        "option_age": ((), np.int64),  # 0 where the option, or the vector, was chosen
        "option_logprob": ((), np.float32),  # of the option, under the policy that chose it
        "action": ((task.num_actions,), np.float32) if task.continuous else ((), np.int64),
        "behaviour_logprob": ((), np.float32),  # of the action, under the policy that acted
        "reward": ((), np.float32),
        "terminated": ((), np.bool_),
        "truncated": ((), np.bool_),
        "legal": (options, np.bool_),  # options that could be chosen
        "label_probs": (options, np.float32),  # the teacher's distribution, zeros without a label
        "true_option": ((), np.int64),  # what drove the step, -1 where it is not known
        "level_seed": ((), np.int64),
        "episode": ((), np.int64),
    }
    return schema | dict(task.extra_columns)


def refuse_too_large(steps: int, schema: Schema, what: str, remedy: str) -> None:
    """Raise `UserError` if steps need more than 8 GiB, or than all memory; `{}` in the remedy is how many would fit."""
    each = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in schema.values())
    limit = min(8 * _GIB, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if (size := steps * each) > limit:
        words = f"{what} needs {size / _GIB:.1f} GiB, more than the {limit / _GIB:.1f} GiB allowed."
        raise UserError(words, remedy.format(limit // each))


class TrajectoryStore:
    """Steps of N environments, [T, N] per column, appended one vector step at a time.

    Observations that an episode ended in (`final_obs`) are kept apart, because only ended episodes have one: truncated
    episodes bootstrap from it, and the row after it belongs to the next episode.

    Args:
        task: What is played.
        capacity: Vector steps that fit, T.
        num_envs: N.
        command_size: D of a high level that sets vectors; 0 for one that names options.
        ring: When full, forget the oldest vector step instead of refusing the next.
        without: Columns that nobody will read.

    Attributes:
        names: Names of its columns.
        extra: Columns that are filled from the environments' infos (`Task.extra_columns`).

    Raises:
        UserError: It would need more than 8 GiB, or than all memory that there is.
    """

    def __init__(
        self,
        task: Task,
        capacity: int,
        num_envs: int,
        *,
        command_size: int = 0,
        ring: bool = False,
        without: Sequence[str] = (),
    ) -> None:
        self.capacity, self.num_envs, self.ring = capacity, num_envs, ring
        self.extra = tuple(task.extra_columns)
        schema = columns(task, command_size) | {"final_slot": ((), np.int64)}
        for name in without:
            del schema[name]
        self.names = frozenset(schema)
        fewer = "--buffer-size {}" if ring else "lower --num-envs or the rollout length"
        refuse_too_large(capacity * num_envs, schema, f"A store of {capacity} x {num_envs} steps", fewer)
        self._columns: dict[str, NDArray] = {
            name: np.zeros((capacity, num_envs, *shape), dtype) for name, (shape, dtype) in schema.items()
        }
        self.clear()

    def __len__(self) -> int:
        """Vector steps stored."""
        return min(self.total, self.capacity)

    @property
    def oldest(self) -> int:
        """Time of the oldest vector step that is still here; times count from the first one ever."""
        return self.total - len(self)

    def clear(self) -> None:
        """Forget everything."""
        self.total = 0
        self._columns["final_slot"][:] = -1
        self._finals = np.zeros((0, *self._columns["obs"].shape[2:]), self._columns["obs"].dtype)
        self._free: list[int] = []

    def append(self, *, ended: NDArray[np.bool_], final_obs: NDArray | None, **values: NDArray) -> None:
        """Add one vector step: columns [N, ...], or what broadcasts to it, and the last observations of what `ended`.

        Columns that are not given keep what they have, which is zeros before a ring comes round.
        """
        if self.total >= self.capacity and not self.ring:
            raise IndexError(f"the store is full ({self.capacity} vector steps)")
        row = self.total % self.capacity
        for name, value in values.items():
            self._columns[name][row] = value
        slots = self._columns["final_slot"][row]
        if self.total >= self.capacity:
            self._free += slots[slots >= 0].tolist()
        slots[:] = -1
        if final_obs is not None and ended.any():
            envs = np.flatnonzero(ended)
            slots[envs] = self._take_slots(len(envs))
            self._finals[slots[envs]] = final_obs[envs]
        self.total += 1

    def column(self, name: str, start: int = 0) -> NDArray:
        """Rows from `start` on of a column, [T - start, N, ...], not copied; in order of time until a ring is full."""
        return self._columns[name][start : len(self)]

    def flat(self, name: str, start: int = 0) -> NDArray:
        """These as [(T - start) N, ...], time-major."""
        column = self.column(name, start)
        return column.reshape(-1, *column.shape[2:])

    def at(self, name: str, times: NDArray[np.int64], envs: NDArray[np.int64]) -> NDArray:
        """Entries of a column at `oldest` <= times < `total` of envs, [..., *shape]."""
        return self._columns[name][times % self.capacity, envs]

    def next_obs(self, times: NDArray[np.int64], envs: NDArray[np.int64]) -> NDArray:
        """What was observed after a step: the next row, or the episode's own last observation.

        The newest vector step has a next observation only where an episode ended.
        """
        following = self.at("obs", times + 1, envs)
        slots = self.at("final_slot", times, envs)
        ended = slots >= 0
        following[ended] = self._finals[slots[ended]]
        return following

    def final_observations(self) -> tuple[NDArray[np.int64], NDArray]:
        """Where episodes ended, (row, environment) [M, 2], and what was observed there [M, ...]."""
        slots = self.column("final_slot")
        rows = np.argwhere(slots >= 0)
        return rows, self._finals[slots[tuple(rows.T)]]

    def state_dict(self) -> dict[str, Any]:
        """Everything stored, for an exact resume."""
        filled = {name: self.column(name) for name in self._columns if name != "final_slot"}
        rows, finals = self.final_observations()
        return {"columns": filled, "total": self.total, "final_rows": rows, "final_obs": finals}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.clear()
        for name, column in state["columns"].items():
            if name in self.names:
                self._columns[name][: len(column)] = column
        self.total, self._finals = state["total"], np.array(state["final_obs"])
        self._columns["final_slot"][tuple(state["final_rows"].T)] = np.arange(len(self._finals))

    def _take_slots(self, count: int) -> NDArray[np.int64]:
        """Places for last observations: those that were given back first, then new ones."""
        lacking = count - len(self._free)
        if lacking > 0:
            grown = max(lacking, len(self._finals))
            self._free += range(len(self._finals), len(self._finals) + grown)
            self._finals = np.concatenate(
                [self._finals, np.zeros((grown, *self._finals.shape[1:]), self._finals.dtype)]
            )
        taken, self._free = self._free[:count], self._free[count:]
        return np.array(taken, np.int64)

"""Demonstrations as Minari datasets, there and back: the field's format for offline data (Farama, 2024).

A dataset holds what any reader of Minari expects, observations, actions, rewards and the two ends; `infos` carry what
is HALO's: `true_option` of each observation (-1 unknown), and the `level_seed` of the episode. Datasets live where
Minari keeps them (`MINARI_DATASETS_PATH`, else ~/.minari), under ids such as `preceptor/rescueworld-n3/expert-v0`.
"""

import warnings
from typing import Any

import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from numpy.typing import NDArray

from preceptor.agent.data.recording import Recording
from preceptor.agent.data.store import columns
from preceptor.envs.task import Task
from preceptor.ground.errors import UserError

_EXAMPLE = "preceptor/rescueworld-n3/expert-v0"


def save_minari(recording: Recording, task: Task, dataset_id: str) -> None:
    """Write demonstrations of a task as a new dataset.

    Raises:
        UserError: The id is taken or not of Minari's form, or the disk refuses.
    """
    buffers = [_buffer(recording, n) for n in range(len(recording))]
    env = task.make_vec(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an author's address, and code on the web: not for every dataset
            minari.create_dataset_from_buffers(
                dataset_id=dataset_id,
                buffer=buffers,
                observation_space=_space(env.single_observation_space),
                action_space=_space(env.single_action_space),
                algorithm_name="the task's scripted expert",
                description=f"Demonstrations of {task.name}: {task.goal} Options: {', '.join(task.options.ids)}.",
            )
    except (ValueError, OSError) as error:
        raise UserError(f"Minari did not take {dataset_id!r}: {error}.", f"--to {_EXAMPLE}") from error
    finally:
        env.close()


def load_minari(dataset_id: str, task: Task) -> Recording:
    """Read a dataset as demonstrations of a task.

    Raises:
        UserError: There is none of that id, or it is not of this task.
    """
    remedy = f"python main.py demos --task {task.source} --to {_EXAMPLE}"
    try:
        dataset = minari.load_dataset(dataset_id)
    except (ValueError, OSError) as error:
        known = ", ".join(sorted(minari.list_local_datasets())) or "none"
        what = f"There is no Minari dataset {dataset_id!r} on this machine; there are: {known}."
        raise UserError(what, remedy) from error
    if not isinstance(dataset.observation_space, spaces.Box):  # such as D4RL's, which hold goals as well
        kind = type(dataset.observation_space).__name__
        what = f"The observations of the Minari dataset {dataset_id!r} are of kind {kind}; {task.name} shows arrays."
        raise UserError(what, remedy)
    episodes = list(dataset.iterate_episodes())
    if not episodes:
        raise UserError(f"The Minari dataset {dataset_id!r} has no episodes.", f"--demos 100, or --to {_EXAMPLE}")
    lengths = np.array([len(episode.actions) + 1 for episode in episodes])
    longest = int(lengths.max())

    def padded(columns: list[NDArray], dtype: Any, fill: float = 0) -> NDArray:
        """Columns of different lengths as [N, T, ...]."""
        out = np.full((len(columns), longest, *np.shape(columns[0])[1:]), fill, dtype)
        for row, column in zip(out, columns, strict=True):
            row[: len(column)] = column
        return out

    def info(name: str, otherwise: float) -> list[NDArray]:
        return [
            np.asarray(episode.infos[name]) if name in (episode.infos or {}) else np.full(length, otherwise)
            for episode, length in zip(episodes, lengths, strict=True)
        ]

    schema = columns(task)
    recording = Recording(
        obs=padded([np.asarray(e.observations) for e in episodes], schema["obs"][1]),
        action=padded([e.actions for e in episodes], schema["action"][1]),
        option=padded(info("true_option", -1), np.int64, -1),
        reward=padded([e.rewards for e in episodes], np.float32),
        terminated=np.array([bool(e.terminations[-1]) for e in episodes]),
        lengths=lengths,
        level_seed=np.array([int(column[0]) for column in info("level_seed", -1)]),
    )
    recording.fits(task)
    return recording


def _buffer(recording: Recording, n: int) -> EpisodeBuffer:
    """One episode: T observations, and T - 1 of all else."""
    seen, acted = slice(int(recording.lengths[n])), slice(int(recording.lengths[n]) - 1)
    last, over = np.arange(acted.stop) == acted.stop - 1, recording.terminated[n]
    return EpisodeBuffer(
        id=n,
        observations=recording.obs[n, seen],
        actions=recording.action[n, acted],
        rewards=recording.reward[n, acted].tolist(),
        terminations=(last & over).tolist(),
        truncations=(last & ~over).tolist(),
        infos={
            "true_option": recording.option[n, seen],
            "level_seed": np.full(seen.stop, recording.level_seed[n]),
        },
    )


def _space(space: Any) -> Any:
    """A space that Minari can write down: it knows no subclasses."""
    if isinstance(space, spaces.Box):
        return spaces.Box(space.low, space.high, space.shape, space.dtype.type)
    return spaces.Discrete(int(space.n))

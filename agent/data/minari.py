"""Demonstrations as Minari datasets, there and back: the field's format for offline data (Farama, 2024).

A dataset holds what any reader of Minari expects, observations, actions, rewards and the two ends, and how Gymnasium
makes an environment that shows and takes the same; `infos` carry what is HALO's, `true_option` of each observation (-1
unknown) and the `level_seed` of the episode, and the recording's extra columns (`faults`, `optimal`, ...). Datasets
live where Minari keeps them (`MINARI_DATASETS_PATH`, else ~/.minari), under ids such as
`preceptor/rescueworld-n3/expert-v0`.

What others recorded is read as it is or refused, with the episode and the field that do not fit.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import minari
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import EpisodeData, parse_dataset_id
from minari.dataset.minari_storage import MinariStorage
from minari.namespace import create_namespace, list_local_namespaces
from minari.storage import get_dataset_path
from numpy.typing import NDArray

from preceptor.agent.data.recording import LONGEST, Recording, extra_columns, normalisation
from preceptor.agent.data.store import columns, refuse_too_large
from preceptor.envs.task import Task
from preceptor.ground.atomic import alone, publish_folder
from preceptor.ground.errors import UserError

_LONGEST_NAME = 200  # characters of a part of an id; file systems take at least 255 bytes


@contextlib.contextmanager
def new_dataset(dataset_id: str, task: Task) -> Iterator[Callable[[Recording], None]]:
    """Reserve an id for this process, and give what writes demonstrations of a task there: wholly, or not at all.

    Raises:
        UserError: The id is taken, or not one under which Minari finds a dataset, or the disk refuses.
    """
    folder, namespace = _place(dataset_id, task), str(PurePosixPath(dataset_id).parent)
    # Beside the datasets: Minari skips what is hidden.
    with alone(get_dataset_path() / ".writing" / dataset_id, "--to"):
        if folder.exists():
            what = f"There is a Minari dataset {dataset_id!r} already" if _is_dataset(folder) else f"{folder} is there"
            raise UserError(f"{what}; nothing was recorded.", recording_command(task, dataset_id))

        def write(recording: Recording) -> None:
            with publish_folder(folder) as draft:
                _write(recording, task, dataset_id, draft / "data")
                if namespace != "." and namespace not in list_local_namespaces():
                    create_namespace(namespace)

        yield write


def load_minari(dataset_id: str, task: Task) -> Recording:
    """Read a dataset as demonstrations of a task.

    Raises:
        UserError: There is none of that id, it cannot be read, or it is not of this task.
    """
    remedy = recording_command(task)
    if not _is_dataset(_place(dataset_id, task)):
        root = get_dataset_path()
        known = sorted(path.parents[1].relative_to(root).as_posix() for path in root.rglob("data/metadata.json"))
        there = ", ".join(name for name in known if "/." not in f"/{name}") or "none"
        what = f"There is no Minari dataset {dataset_id!r} on this machine; there are: {there}."
        raise UserError(what, remedy)
    try:
        raw = MinariStorage.read_raw_metadata(get_dataset_path(dataset_id) / "data")
        if not {"observation_space", "action_space"} <= set(raw):  # Minari would run what its env_spec names
            raise ValueError("it does not say of which spaces it is")
        dataset = minari.load_dataset(dataset_id)
        _same_actions(dataset.action_space, task)
        episodes = [_episode(episode, n, task) for n, episode in enumerate(dataset.iterate_episodes())]
        for n, episode in enumerate(episodes):
            if odd := sorted(episodes[0].keys() ^ episode.keys()):
                raise ValueError(f"some episodes have infos' {odd[0]}, and others, as episode {n}, differ")
    except UserError:
        raise
    except Exception as error:  # Minari and HDF5 raise what they stumble on in files of others
        why = error if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
        what = f"The Minari dataset {dataset_id!r} cannot be read as demonstrations of {task.name}: {why}."
        raise UserError(what, remedy) from error
    if not episodes:
        raise UserError(f"The Minari dataset {dataset_id!r} has no episodes.", remedy)
    lengths = np.array([len(episode["obs"]) for episode in episodes])
    longest = int(lengths.max())
    size = f"The dataset {dataset_id}, as {len(episodes):,} episodes of {longest:,} steps as the longest has,"
    refuse_too_large(longest * len(episodes), columns(task), size, "write its longest episodes as several shorter ones")

    def padded(name: str, fill: float = 0) -> NDArray:
        """A column as [N, T, ...]."""
        first = episodes[0][name]
        out = np.full((len(episodes), longest, *first.shape[1:]), fill, first.dtype)
        for row, episode in zip(out, episodes, strict=True):
            row[: len(episode[name])] = episode[name]
        return out

    extra = [name for name in extra_columns(task) if name in episodes[0]]
    recording = Recording(
        obs=padded("obs"),
        action=padded("action"),
        option=padded("option", -1),
        reward=padded("reward"),
        terminated=np.array([episode["terminated"][-1] for episode in episodes]),
        lengths=lengths,
        level_seed=np.array([episode["level_seed"][0] for episode in episodes]),
        extra={name: padded(name) for name in extra},
    )
    recording.fits(task)
    return recording


def recorded_normalisation(dataset_id: str) -> str | None:
    """The digest of `normalisation` that a dataset was written with; None where nothing says so."""
    return MinariStorage.read_raw_metadata(get_dataset_path(dataset_id) / "data").get("normalisation")


def recording_command(task: Task, dataset_id: str = "") -> str:
    """The command that records under an id, or under its next version that is not taken."""
    name, _, version = (dataset_id or f"preceptor/{task.base_name.lower()}/expert-v0").rpartition("-v")
    ids = (f"{name}-v{number}" for number in itertools.count(int(version)))
    free = next(dataset_id for dataset_id in ids if not get_dataset_path(dataset_id).exists())
    return f"python main.py demos --task {task.source} --to {free}"


def _place(dataset_id: str, task: Task) -> Path:
    """The folder of a dataset. Raises `UserError` for an id under which Minari would not find it."""
    path = PurePosixPath(dataset_id)
    try:
        parse_dataset_id(dataset_id)
        well = str(path) == dataset_id and max(map(len, path.parts)) <= _LONGEST_NAME
    except (ValueError, TypeError):  # of an id without a version
        well = False
    if not well:
        what = f"{dataset_id!r} is no id of a Minari dataset, such as name-v0 or space/name-v0."
        raise UserError(what, recording_command(task))
    if "data" in path.parts or any(_is_dataset(get_dataset_path(str(up))) for up in list(path.parents)[:-1]):
        what = f"Minari would not find {dataset_id!r}: it takes a folder that has one of the name `data` for a dataset."
        raise UserError(what, recording_command(task))
    return get_dataset_path(dataset_id)


def _is_dataset(folder: Path) -> bool:
    return (folder / "data").exists()


def _write(recording: Recording, task: Task, dataset_id: str, data: Path) -> None:
    env = task.make_vec(1)
    env.close()
    spec = {
        split: EnvSpec(
            f"Preceptor/{task.name}-v0",
            entry_point="preceptor.envs.catalog:make_single_env",
            kwargs={"task": task.source, "split": split},
            max_episode_steps=LONGEST,  # more than any recorded one has; it ends by itself before
        )
        for split in ("train", "eval")
    }
    storage = MinariStorage.new(
        data,
        _space(env.single_observation_space),
        _space(env.single_action_space),
        spec["train"],
        jpeg_encoding=False,  # which would change large maps
    )
    storage.update_metadata(
        {
            "dataset_id": dataset_id,
            "minari_version": minari.__version__,
            "algorithm_name": "the task's scripted expert",
            "description": f"Demonstrations of {task.name}: {task.goal} Options: {', '.join(task.options.ids)}.",
            "eval_env_spec": spec["eval"].to_json(),
            "normalisation": normalisation(task),
        }
    )
    storage.update_episodes(_buffer(recording, n) for n in range(len(recording)))


def _same_actions(acts: spaces.Space[Any], task: Task) -> None:
    """Raises `ValueError` unless actions of a dataset mean what a task's do."""
    ours = f"those of {task.name} are {'in [-1, 1]' if task.continuous else f'0 to {task.num_actions - 1}'}"
    if task.continuous:
        unbounded = isinstance(acts, spaces.Box) and not acts.is_bounded("both")
        same = unbounded or (isinstance(acts, spaces.Box) and bool((acts.low == -1).all() and (acts.high == 1).all()))
    else:
        same = isinstance(acts, spaces.Discrete) and (acts.start, acts.n) == (0, task.num_actions)
    if not same:
        raise ValueError(f"its actions are of {acts}, and {ours}")


def _episode(episode: EpisodeData, n: int, task: Task) -> dict[str, NDArray]:
    """The columns of an episode of T actions, every number as it was. Raises `ValueError` where they do not fit."""
    extras = extra_columns(task)
    schema, steps = columns(task) | extras, len(episode.actions)
    infos = episode.infos or {}
    seen: Any = episode.observations
    if isinstance(seen, Mapping):  # a grid task's `image` and `mission`
        try:
            seen = task.from_gymnasium(seen)
        except (TypeError, ValueError, KeyError) as error:
            fields = ", ".join(map(str, seen))
            raise ValueError(f"episode {n} has observations of {fields}; {task.name} shows arrays") from error
    found = {
        "obs": ("observations", seen, steps + 1),
        "action": ("actions", episode.actions, steps),
        "reward": ("rewards", episode.rewards, steps),
        "terminated": ("terminations", episode.terminations, steps),
        "truncated": ("truncations", episode.truncations, steps),
        "true_option": ("infos' true_option", infos.get("true_option", np.full(steps + 1, -1)), steps + 1),
        "level_seed": ("infos' level_seed", infos.get("level_seed", np.full(steps + 1, -1)), steps + 1),
    }
    found |= {name: (f"infos' {name}", infos[name], steps + 1) for name in extras if name in infos}
    read = {}
    for name, (field, values, count) in found.items():
        shape, dtype = schema[name]
        column, due = np.asarray(values), (count, *shape)
        if column.shape != due or column.dtype.kind not in "biuf":
            what = f"{due} is due: {steps} actions, and one observation more" if column.shape != due else "no numbers"
            raise ValueError(f"episode {n} has {field} of shape {column.shape} and kind {column.dtype}; {what}")
        with np.errstate(over="ignore", invalid="ignore"):
            read[name] = column.astype(dtype)
            rounds = np.issubdtype(dtype, np.floating)
            kept = np.isfinite(read[name]) if rounds else read[name] == column
        if not kept.all():
            raise ValueError(f"episode {n} has {field} of {column[~kept][0]}, which is no {np.dtype(dtype).name}")
    if not steps:
        raise ValueError(f"episode {n} has no action")
    for name in ("terminated", "truncated"):
        if read[name][:-1].any():
            raise ValueError(f"episode {n} is {name} at step {read[name].argmax() + 1} of {steps}")
    if (read["level_seed"] != read["level_seed"][0]).any():
        raise ValueError(f"episode {n} is of several level seeds")
    return read | {"option": read["true_option"]}


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
            **{name: column[n, seen] for name, column in recording.extra.items()},
        },
    )


def _space(space: Any) -> Any:
    """A space that Minari can write down: it knows no subclasses."""
    if isinstance(space, spaces.Box):
        return spaces.Box(space.low, space.high, space.shape, space.dtype.type)
    return spaces.Discrete(int(space.n))

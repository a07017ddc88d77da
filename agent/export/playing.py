"""Exports at play, without torch: ONNX Runtime computes what networks would; all else is what a trained agent uses.

An export is a folder: `export.json`, a manifest that holds digests of the other files, and the networks of both levels,
from what is seen on (scales and tables included), to what a choice is sampled from.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.acting import Agent
from preceptor.agent.clock import Clock, transition_of
from preceptor.agent.distributions import (
    Categorical,
    CategoricalChunk,
    ClippedNormal,
    Distribution,
    GaussianMixture,
    SquashedNormal,
)
from preceptor.agent.levels import Observations, Player, SingleOption, SkillLow, Slices
from preceptor.controller.encoders import GridEncoder, unlike
from preceptor.envs.catalog import get_task
from preceptor.envs.task import Task
from preceptor.ground.atomic import CheckpointError, DamagedError, read_json, standing, truncated
from preceptor.ground.errors import UserError
from preceptor.ground.sealed import file_digest

KIND, SCHEMA, MANIFEST = "preceptor-export", 1, "export.json"
ONNXRUNTIME = "1.32.0"
Told = tuple[Observations, NDArray[np.int64], NDArray[np.float32]]  # with the running option and the command


def places_of(observed: Observations) -> NDArray[np.float32]:
    """Where each option leads, [N, K, D], in the dimensions of the task's goals."""
    count, options = len(observed), len(observed.task.options)
    each = (observed.task.ground(observed.obs, np.full(count, option))[0] for option in range(options))
    return np.stack(list(each), 1).astype(np.float32)


# What networks may be told, by name: each gives one array [N, ...] or several.
SENSES: dict[str, Callable[[Told], tuple[NDArray, ...]]] = {
    "parts": lambda told: told[0].encoded.parts,
    "obs": lambda told: (told[0].obs,),
    "legal": lambda told: (told[0].legal,),
    "option": lambda told: (told[1],),
    "command": lambda told: (told[2],),
    "places": lambda told: (places_of(told[0]),),
    "cells": lambda told: (told[0].task.cells(told[0].obs),),  # type: ignore[attr-defined]
    "facts": lambda told: (told[0].task.fact_codes(told[0].obs),),
    "tokens": lambda told: GridEncoder(told[0].task.observation_shape)(told[0].obs).parts[:1],
}
# What ends an option before its time, where that is not learned.
ENDS: dict[str, Callable[[Observations, NDArray[np.int64]], NDArray[np.bool_]]] = {
    "never": lambda observed, running: np.zeros(len(observed), np.bool_),
    "always": lambda observed, running: np.ones(len(observed), np.bool_),
    "done": lambda observed, running: observed.task.option_done(observed.obs, np.maximum(running, 0)),
}
KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (Categorical, CategoricalChunk, ClippedNormal, GaussianMixture, SquashedNormal)
}
PLAIN: dict[str, Any] = {level.__name__: level for level in (SingleOption, SkillLow, Slices)}  # without networks


def feed(names: tuple[str, ...], told: Told) -> dict[str, NDArray]:
    """What a network is told, by the names of its inputs."""
    return {f"{name}.{i}": part for name in names for i, part in enumerate(SENSES[name](told))}


class ComputedLevel:
    """A level of an export, high or low.

    Args:
        session: ONNX Runtime's, of its network.
        said: What the manifest says of it.
    """

    def __init__(self, session: Any, said: Mapping[str, Any]) -> None:
        self._session, self._inputs = session, tuple(said["inputs"])
        self._taken = {each.name for each in session.get_inputs()}  # no more: a constant is no input
        self._kind, self._settings = KINDS[said["kind"]], said["settings"]
        self._ends = None if said["ends"] is None else ENDS[said["ends"]]

    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Distribution]:
        """As a high level."""
        found = self._run((observed, running, np.zeros((len(running), 0), np.float32)))
        over = found.pop(0) if self._ends is None else self._ends(observed, running)
        return over, self._kind(*found, **self._settings)

    def act(self, observed: Observations, clock: Clock) -> Distribution:
        """As a low level."""
        choice: Distribution = self._kind(*self._run((observed, clock.option, clock.command)), **self._settings)
        return choice

    def _run(self, told: Told) -> list[NDArray]:
        given = {name: part for name, part in feed(self._inputs, told).items() if name in self._taken}
        outputs: list[NDArray] = self._session.run(None, given)
        return outputs


def is_export(folder: str | Path) -> bool:
    """Whether there is an export at a place."""
    return (standing(Path(folder)) / MANIFEST).exists()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export whose files are all there, and as they were written.

    Raises:
        CheckpointError: There is none, a file is missing, or it is of a newer version.
        DamagedError: A file is not what was exported.
    """
    again = "python main.py export RUN  # writes it anew"
    if not folder.is_dir():
        raise CheckpointError(f"There is no export at {folder}.", again)
    try:
        said = read_json(folder / MANIFEST, kind=KIND, schema=SCHEMA)
    except DamagedError as error:
        raise DamagedError(error.what, again) from error
    for name, digest in said["files"].items():
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing from the export.", again)
        if file_digest(folder / name) != digest:
            raise truncated(folder / name, "its digest is not the one in the manifest", again)
    return said


def load_player(folder: str | Path, task: str | None = None) -> tuple[Task, Player]:
    """The task and the player of an export.

    Args:
        folder: Where it is.
        task: A variant of its task to be played instead; the task itself if not given.

    Raises:
        CheckpointError: It is missing, damaged, of a newer version, or of another task or option list.
        UserError: ONNX Runtime is missing; or its task is not installed here.
    """
    folder = standing(Path(folder))
    said = read_manifest(folder)
    played = get_task(task or said["task"])
    if other := unlike(said["identity"], played):
        name, there, here = other
        what = f"The export at {folder} has {name} {there!r}, but {played.name} needs {here!r}."
        raise CheckpointError(what, f"play it on {said['task']}, or export it anew with this version")
    if said["runtime"] == "torch":
        try:
            from preceptor.agent.export.whole import player_of
        except ImportError as error:
            what = f"The export at {folder} is played with torch, which cannot be loaded: {error}."
            raise UserError(what, "pip install torch, or where it was trained: export RUN --format onnx") from error
        return played, player_of(folder, said, played)
    return played, player_in(folder, said)


def player_in(folder: Path, said: Mapping[str, Any]) -> Player:
    """The player of networks in a folder, as a manifest describes it. Raises `UserError` without ONNX Runtime."""
    try:
        import onnxruntime
    except ImportError as error:
        install = f"pip install onnxruntime=={ONNXRUNTIME}"
        raise UserError(f"ONNX Runtime, which plays exports, cannot be loaded: {error}.", install) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # more are slower for networks of this size
    options.log_severity_level = 3

    def level(of: Mapping[str, Any]) -> Any:
        if "file" not in of:
            return PLAIN[of["plain"]]()
        session = onnxruntime.InferenceSession(folder / of["file"], options, providers=["CPUExecutionProvider"])
        return ComputedLevel(session, of)

    transition = transition_of(said["transition"]["kind"], said["transition"]["numbers"])
    return Player(level(said["high"]), level(said["low"]), np.array(said["timeouts"], np.int64), transition)


def load(folder: str | Path, *, greedy: bool = False, seed: int | None = None, task: str | None = None) -> Agent:
    """An exported agent, ready to act: as `preceptor.load` gives one, but of an export, and without torch.

    Args:
        folder: Where the export is.
        greedy: Whether it takes the most probable option and action instead of sampling them.
        seed: Of the sampling.
        task: A variant of its task to be played instead.

    Raises:
        UserError, CheckpointError: As `load_player`.
    """
    played, player = load_player(folder, task)
    return Agent(played, player, greedy=greedy, seed=seed)

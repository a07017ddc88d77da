"""`doctor`: is everything here that a run needs, and is a run directory sound?

A check returns what it found in words. It raises `UserError` if runs do not work with that, and `Doubt` if they do
nevertheless; both say what to do. What is heavy is imported by the check that needs it, so that one of the others can
say that it is missing.
"""

import importlib.metadata
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from preceptor.agent.flags import DoctorConfig
from preceptor.ground.errors import Doubt, UserError
from preceptor.ground.level_seeds import SEEDS_PER_SPLIT
from preceptor.ground.program import CLONED, HOME, ROOT

SERVING = HOME / ".venv-serving"
LITTLE_SPACE, NO_SPACE = 2e9, 2e8  # bytes


def examine(config: DoctorConfig) -> dict[str, Any]:
    """The `doctor` verb: `{"checks": [{"status", "name", "found", "next"}, ...], "failed": number}`; with `--data`, see
    `preceptor.agent.runs.quality`."""
    if config.data is not None:
        from preceptor.agent.runs.quality import examine_data

        return examine_data(config)
    if config.task is not None:
        raise UserError("--task is of demonstrations, and none are named.", "--data 100, a dataset, or its folder")
    looks: dict[str, Callable[[], str]] = dict(CHECKS)
    if config.run:
        from preceptor.agent.runs.run import Run
        from preceptor.agent.runs.soundness import PARTS

        found = Path(config.run)
        run = Run(found, {}) if found.is_dir() else Run.find(config.logdir, None, None, config.run)
        looks |= {f"run: {name}": partial(look, run) for name, look in PARTS.items()}
    checks = [{"name": name, **outcome(look)} for name, look in looks.items()]
    return {"checks": checks, "failed": sum(check["status"] == "fail" for check in checks)}


def outcome(look: Callable[[], str]) -> dict[str, str]:
    """The status of a check (ok, warn, fail), what it found, and what to do next; a check that breaks has failed."""
    try:
        return {"status": "ok", "found": look(), "next": ""}
    except UserError as error:
        return {"status": "warn" if isinstance(error, Doubt) else "fail", "found": error.what, "next": error.next_step}
    except Exception as error:
        return {"status": "fail", "found": f"{type(error).__name__}: {error}", "next": "make clean && make demo"}


def check_python() -> str:
    """Whether the interpreter is of a version that the pins were tested with."""
    found = f"{sys.version.split()[0]} at {sys.executable}"
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise UserError(found, "PYTHON=python3.12 make demo")
    return found


def check_packages(requirements: Path = ROOT / "requirements.txt") -> str:
    """Whether the installed versions are the pinned ones."""
    if not CLONED:
        return f"preceptor {version('preceptor')}, with what pip installed for it"
    missing, other, right = _compared(requirements, sys.path)
    if missing:
        raise UserError(f"missing: {', '.join(missing)}", "make demo")
    if other:
        raise Doubt("; ".join(other), "make demo  # installs the pinned versions")
    return f"{len(right)} as pinned"


def check_serving(venv: Path = SERVING, requirements: Path = ROOT / "requirements-serving.txt") -> str:
    """Whether vLLM and FastChat could be launched; runs need neither."""
    if not venv.exists():
        return "not there; only serve --backend vllm or fastchat needs it: make serve-setup"
    missing, other, right = _compared(requirements, [str(place) for place in venv.glob("lib/python3*/site-packages")])
    unfinished = [] if any(venv.glob(".ready-*")) else ["its setup did not end"]
    if wrong := [*(f"{package} is missing" for package in missing), *other, *unfinished]:
        raise Doubt("; ".join(wrong), "make serve-setup")
    return f"{', '.join(right)} in {venv.name}"


def _compared(requirements: Path, path: list[str]) -> tuple[list[str], list[str], list[str]]:
    """What of a list of pins is missing on a path of packages, has another version, and is as pinned."""
    missing, other, right = [], [], []
    for line in requirements.read_text().splitlines():
        package, pinned, version = line.partition("==")
        if not pinned or line.startswith("#"):
            continue
        name = package.partition("[")[0]
        installed = _version(name, path) or _version(name.removesuffix("-cpu"), path)  # vllm's builds are two packages
        if installed is None:
            missing.append(package)
        elif installed != version:
            other.append(f"{package} {installed}, not {version}")
        else:
            right.append(f"{package} {version}")
    return missing, other, right


def _version(package: str, path: list[str]) -> str | None:
    found = importlib.metadata.distributions(name=package, path=path)
    return next((each.version.partition("+")[0] for each in found), None)


def check_threads() -> str:
    """How many threads torch would take, and on what."""
    import torch

    device = "no GPU, and none is needed"
    if torch.cuda.is_available():
        device = f"networks are on {torch.cuda.get_device_name()} (--device cpu: on the processor)"
    return f"{os.cpu_count()} cores; runs use one thread of torch (--threads); {device}"


def check_numba_cache() -> str:
    """Whether compiled kernels can be kept; where they cannot, every start compiles them again."""
    place = Path(os.environ.get("NUMBA_CACHE_DIR", ROOT / "envs" / "gridworld"))
    if not os.access(place, os.W_OK):
        raise Doubt(f"{place} is not writable", "export NUMBA_CACHE_DIR=~/.cache/numba")
    return f"{place} is writable"


def check_language_model() -> str:
    """Whether the built-in language model loads and answers scenes of the first task as the script would."""
    import numpy as np

    from preceptor.envs.catalog import get_task
    from preceptor.teacher.make import make_teacher

    task = get_task("SimpleDoorKey")
    started = time.perf_counter()
    teacher = make_teacher("local", task)
    assert teacher is not None
    scenes = task.sample_scenes(np.random.default_rng(0), 32)
    labels = teacher.label(scenes)
    seconds = time.perf_counter() - started
    agreed = [task.script(scene) == int(np.argmax(label.probs)) for scene, label in zip(scenes, labels, strict=True)]
    found = f"{sum(agreed)} of {len(agreed)} scenes right, loaded and answered in {seconds:.1f} s"
    if np.mean(agreed) < 0.9:
        raise Doubt(found, "git checkout teacher/tiny_lm  # or train it again, see its card")
    return found


def check_rendering() -> str:
    """Whether an episode can be filmed, and what draws mazes; runs need neither."""
    from preceptor.agent.players import teacher_player
    from preceptor.agent.runs.pictures import record, watch
    from preceptor.envs.catalog import get_task
    from preceptor.envs.mujoco.rendering import choose_backend
    from preceptor.teacher.make import make_teacher

    task = get_task("SimpleDoorKey")
    teacher = make_teacher("scripted", task)
    assert teacher is not None
    with tempfile.TemporaryDirectory() as folder:
        episode = watch(task, teacher_player(task, teacher), SEEDS_PER_SPLIT)
        film = record(task, [episode], Path(folder) / "doctor.mp4")
        found = f"an episode of the scripted teacher is {film.stat().st_size:,} bytes of mp4"
    stage = get_task("PointReach").make_single(SEEDS_PER_SPLIT)
    try:
        stage.render()
    except UserError as error:
        raise Doubt(f"{found}; {error.what}", error.next_step) from error
    finally:
        stage.close()
    backend = choose_backend()
    return f"{found}; {backend.name} draws mazes: {backend.why}"


def check_disk(place: Path = ROOT) -> str:
    """Whether there is room for runs."""
    free = shutil.disk_usage(place).free
    found = f"{free / 1e9:.1f} GB free at {place}"
    if free < LITTLE_SPACE:
        kind = UserError if free < NO_SPACE else Doubt
        raise kind(found, f"du -sh {place}/log/*/*/*  # delete runs, or choose another --logdir")
    return found


CHECKS = {
    "python": check_python,
    "packages": check_packages,
    "threads": check_threads,
    "numba cache": check_numba_cache,
    "language model": check_language_model,
    "rendering": check_rendering,
    "serving": check_serving,
    "disk": check_disk,
}

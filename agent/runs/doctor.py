"""`doctor`: is everything here that a run needs, and is a run directory sound? Each check says what to do if not."""

import contextlib
import importlib.metadata
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from agent.flags import TRAINING_LEVELS, DoctorConfig
from ground.errors import UserError

ROOT = Path(__file__).parents[2]
SERVING = ROOT / ".venv-serving"
LITTLE_SPACE, NO_SPACE = 2e9, 2e8  # bytes


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        status: `warn` if runs work nevertheless, `fail` if they do not.
        name: What was looked at.
        found: What was there.
        next: What to do about it; empty if there is nothing to do.
    """

    status: Literal["ok", "warn", "fail"]
    name: str
    found: str
    next: str = ""


def examine(config: DoctorConfig) -> dict[str, Any]:
    """The `doctor` verb: `{"checks": [...], "failed": number}`."""
    steps: list[tuple[str, Callable[[], Check]]] = [
        ("python", check_python),
        ("packages", check_packages),
        ("threads", check_threads),
        ("numba cache", check_numba_cache),
        ("language model", check_language_model),
        ("rendering", check_rendering),
        ("serving", check_serving),
        ("disk", check_disk),
    ]
    if config.run:
        run = _found(config.run, config.logdir)
        parts = {"settings": _settings, "manifest": _manifest, "metrics": _metrics, "checkpoints": _checkpoints}
        for name, look in {**parts, "controller": _controller, "labels": _labels}.items():
            steps.append((f"run: {name}", partial(look, run)))
    checks = [_guarded(name, look) for name, look in steps]
    return {"checks": [asdict(check) for check in checks], "failed": sum(check.status == "fail" for check in checks)}


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    """A check that breaks is a finding too."""
    try:
        return look()
    except UserError as error:
        return Check("fail", name, error.what, error.next_step)
    except Exception as error:
        return Check("fail", name, f"{type(error).__name__}: {error}", "make clean && make demo")


def check_python() -> Check:
    """Whether the interpreter is of a version that the pins were tested with."""
    found = f"{sys.version.split()[0]} at {sys.executable}"
    right = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Check("ok" if right else "fail", "python", found, "" if right else "PYTHON=python3.12 make demo")


def check_packages(requirements: Path = ROOT / "requirements.txt") -> Check:
    """Whether the installed versions are the pinned ones."""
    missing, other, right = _compared(requirements, sys.path)
    if missing:
        return Check("fail", "packages", f"missing: {', '.join(missing)}", "make demo")
    if other:
        return Check("warn", "packages", "; ".join(other), "make demo  # installs the pinned versions")
    return Check("ok", "packages", f"{len(right)} as pinned")


def check_serving(venv: Path = SERVING, requirements: Path = ROOT / "requirements-serving.txt") -> Check:
    """Whether vLLM and FastChat could be launched; runs need neither."""
    if not venv.exists():
        return Check("ok", "serving", "not there; only serve --backend vllm or fastchat needs it", "make serve-setup")
    missing, other, right = _compared(requirements, [str(place) for place in venv.glob("lib/python3*/site-packages")])
    unfinished = [] if any(venv.glob(".ready-*")) else ["its setup did not end"]
    if wrong := [*(f"{package} is missing" for package in missing), *other, *unfinished]:
        return Check("warn", "serving", "; ".join(wrong), "make serve-setup")
    return Check("ok", "serving", f"{', '.join(right)} in {venv.name}")


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


def check_threads() -> Check:
    """How many threads torch would take, and on what."""
    import torch

    device = "no GPU, and none is needed"
    if torch.cuda.is_available():
        device = f"networks are on {torch.cuda.get_device_name()} (--device cpu: on the processor)"
    return Check("ok", "threads", f"{os.cpu_count()} cores; runs use one thread of torch (--threads); {device}")


def check_numba_cache() -> Check:
    """Whether compiled kernels can be kept; where they cannot, every start compiles them again."""
    place = Path(os.environ.get("NUMBA_CACHE_DIR", ROOT / "envs" / "gridworld"))
    if os.access(place, os.W_OK):
        return Check("ok", "numba cache", f"{place} is writable")
    return Check("warn", "numba cache", f"{place} is not writable", "export NUMBA_CACHE_DIR=~/.cache/numba")


def check_language_model() -> Check:
    """Whether the built-in language model loads and answers scenes of the first task as the script would."""
    import numpy as np

    from envs.catalog import get_task
    from teacher.make import make_teacher

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
        return Check("warn", "language model", found, "git checkout teacher/tiny_lm  # or train it again, see its card")
    return Check("ok", "language model", found)


def check_rendering() -> Check:
    """Whether an episode can be filmed, and what draws mazes; runs need neither."""
    from agent.players import teacher_player
    from agent.runs.pictures import watch
    from agent.runs.video import record
    from envs.catalog import get_task
    from envs.mujoco.rendering import choose_backend
    from teacher.make import make_teacher

    task = get_task("SimpleDoorKey")
    teacher = make_teacher("scripted", task)
    assert teacher is not None
    with tempfile.TemporaryDirectory() as folder:
        episode = watch(task, teacher_player(task, teacher), TRAINING_LEVELS)
        film = record(task, [episode], Path(folder) / "doctor.mp4")
        found = f"an episode of the scripted teacher is {film.stat().st_size:,} bytes of mp4"
    stage = get_task("PointReach").make_single(TRAINING_LEVELS)
    try:
        stage.render()
    except UserError as error:
        return Check("warn", "rendering", f"{found}; {error.what}", error.next_step)
    finally:
        stage.close()
    backend = choose_backend()
    return Check("ok", "rendering", f"{found}; {backend.name} draws mazes: {backend.why}")


def check_disk(place: Path = ROOT) -> Check:
    """Whether there is room for runs."""
    free = shutil.disk_usage(place).free
    status: Literal["ok", "warn", "fail"] = "fail" if free < NO_SPACE else "warn" if free < LITTLE_SPACE else "ok"
    advice = "" if status == "ok" else f"du -sh {place}/log/*/*/*  # delete runs, or choose another --logdir"
    return Check(status, "disk", f"{free / 1e9:.1f} GB free at {place}", advice)


def _found(name: str, logdir: str) -> Path:
    """The folder of a run by path, or by name. Raises `UserError` if there is none."""
    from agent.runs.run import Run

    return Path(name) if Path(name).is_dir() else Run.find(logdir, None, None, name).path


def _settings(run: Path) -> Check:
    from agent.runs.run import Run

    opened = Run.open(run)
    facts = {key: opened.config.get(key) for key in ("method", "task", "seed")} | {"teacher": opened.teacher}
    said = ", ".join(f"{key} {fact}" for key, fact in facts.items() if fact is not None)
    return Check("ok", "run: settings", said)


def _manifest(run: Path) -> Check:
    from agent.runs.run import Run

    manifest = Run.open(run).manifest()
    found = f"commit {str(manifest['commit'])[:12]}, {len(manifest['starts'])} start(s), Python {manifest['python']}"
    return Check("ok", "run: manifest", found)


def _metrics(run: Path) -> Check:
    from agent.runs.metrics import FILE, read_metrics

    path = run / FILE
    if not path.exists():
        return Check("warn", "run: metrics", "none yet", "repeat its command with --resume  # starts it over")
    lines, rows = len(path.read_text().splitlines()), read_metrics(path)
    if len(rows) < lines:
        found = f"{lines - len(rows)} of {lines} lines do not parse"
        return Check("warn", "run: metrics", found, "repeat its command with --resume  # cuts them off")
    found = f"{lines} lines up to step {rows[-1]['step']:,}" if rows else "none yet"
    return Check("ok", "run: metrics", found)


def _checkpoints(run: Path) -> Check:
    from agent.runs.checkpoint import load_tree
    from agent.runs.run import Run

    opened = Run.open(run)
    for step in opened.saved_steps():
        load_tree(opened.checkpoint(step))
    if opened.last_step is None:
        return Check("warn", "run: checkpoints", "none yet", "repeat its command with --resume  # starts it over")
    steps = ", ".join(f"{step:,}" for step in opened.saved_steps())
    return Check("ok", "run: checkpoints", f"load at steps {steps}; --resume continues from {opened.last_step:,}")


def _controller(run: Path) -> Check:
    from agent.runs.run import Run
    from controller.checkpoint import load_controller
    from envs.catalog import get_task

    opened = Run.open(run)
    if not opened.controller.exists():
        return Check("ok", "run: controller", "none, as with --method ppo, or before distillation has ended")
    load_controller(opened.controller, get_task(opened.config["task"], opened.config.get("limit")))
    return Check("ok", "run: controller", "loads for its task")


def _labels(run: Path) -> Check:
    path = run / "labels.sqlite"
    if not path.exists():
        return Check("ok", "run: labels", "no label store")
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
        verdict = store.execute("PRAGMA quick_check").fetchone()[0]
    status: Literal["ok", "fail"] = "ok" if verdict == "ok" else "fail"
    return Check(status, "run: labels", f"SQLite says {verdict}", "" if status == "ok" else f"rm {path}")

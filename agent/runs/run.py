"""The directory of a run, `log/<method>/<task>/<name>/`: what it was told, what it ran on, what it saved.

- `config.json` the settings, `manifest.json` the circumstances, `metrics.jsonl` and `events.*` the numbers;
- `checkpoints/<step>/`, `last`; `controller/` the distilled controller; `labels.sqlite` all that the teacher said;
- `result.json` and `episodes/` what training came to; `eval.json` and `videos/` what `eval` leaves.
"""

import contextlib
import glob
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from preceptor.agent.runs.checkpoint import STRUCTURE, load_tree, save_tree
from preceptor.agent.runs.metrics import FILE as METRICS
from preceptor.agent.runs.metrics import Metrics, cut_after
from preceptor.agent.runs.names import check_name
from preceptor.agent.runs.results import read_result, write_result
from preceptor.agent.runs.settings import check_same, without_passwords
from preceptor.envs.catalog import get_task
from preceptor.ground.atomic import (
    CheckpointError,
    DamagedError,
    read_json,
    truncated,
    write_file,
    write_json,
)
from preceptor.ground.errors import UserError, unknown_name
from preceptor.ground.sealed import file_digest

CONFIG, MANIFEST = "preceptor-config", "preceptor-manifest"
SCHEMAS = {CONFIG: 3, MANIFEST: 2}  # of these, files are sealed
OLDEST_CONFIG = 2
LAST_OF_SCHEMA_1 = "ec3ec8d"  # commit; until then settings were flat, and those of the method were not in them
KEPT_CHECKPOINTS = 2
VERSIONED = ("torch", "numpy", "numba", "gymnasium", "minigrid", "transformers", "openai", "safetensors")


@dataclass(frozen=True)
class Run:
    """One run on the disk.

    Attributes:
        path: The run directory.
        config: The settings it was started with, all of them resolved, as JSON gives them back: flags at the top, how
            the teacher is asked in `teacher`, those of the method in `settings`, nested.
    """

    path: Path
    config: dict[str, Any]

    @staticmethod
    def place(logdir: str | Path, method: str, task: str, name: str) -> Path:
        """Where a run of that name lies. Raises `UserError` if it is no name, or a file is in the way."""
        check_name(name)
        path = Path(logdir, method, task, name)
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file, and a run needs a directory there.", "another --savedir")
        return path

    @classmethod
    def create(
        cls, logdir: str | Path, method: str, task: str, name: str, config: Mapping[str, Any], *, resume: bool
    ) -> "Run":
        """Start a run directory, or with `resume` continue the one that is there.

        On resuming, the settings must be those of the run (`steps` may grow), and metrics that were written after the
        last checkpoint are cut off, so that N + N steps leave what 2N steps leave.

        Raises:
            UserError: The directory is in use and `resume` is false, or its settings are others.
        """
        path = cls.place(logdir, method, task, name)
        settings = json.loads(json.dumps(without_passwords(dict(config))))
        if _occupied(path):
            if not resume:
                advice = "--resume to continue it, or another --savedir to start a new one"
                raise UserError(f"{path} already holds a run.", advice)
            run = cls.open(path)
            check_same(path, run.config, settings)
            cut_after(path / METRICS, -1 if run.last_step is None else run.last_step)
        run = cls(path, settings)
        write_json(path / "config.json", {"format": CONFIG, "schema": SCHEMAS[CONFIG], "config": settings})
        run._note_start()
        return run

    @classmethod
    def open(cls, path: Path) -> "Run":
        """An existing run. Raises `CheckpointError` if the directory holds none, or one of an older version."""
        saved = read_json(path / "config.json", kind=CONFIG, schema=SCHEMAS[CONFIG])
        if saved["schema"] < OLDEST_CONFIG:
            what = f"{path} was started by an older version, which kept settings in another form"
            advice = f"git checkout {LAST_OF_SCHEMA_1}  # which reads it; or train again under another --savedir"
            raise CheckpointError(f"{what} (schema {saved['schema']}; this one reads {OLDEST_CONFIG}).", advice)
        config = saved.get("config")
        if not isinstance(config, dict) or not isinstance(config.get("teacher", {}), dict):
            raise truncated(path / "config.json", "it holds no settings")
        if not all(isinstance(config.get(name, ""), str) for name in ("method", "task")):
            raise truncated(path / "config.json", "its method or task is no name")
        return cls(path, config)

    @classmethod
    def find(cls, logdir: str | Path, method: str | None, task: str | None, name: str) -> "Run":
        """The run of that name, or at that path; None searches every method or task, the newest first.

        Raises:
            UserError: There is none (the nearest name is suggested), or the name stands for several seeds.
        """
        runs = cls.find_all(logdir, method, task, name)
        if len(runs) > 1:
            seeds = ", ".join(run.path.name for run in runs)
            raise UserError(f"{name!r} holds several seeds: {seeds}.", f"name one of them: {name}/{runs[0].path.name}")
        return runs[0]

    @classmethod
    def find_all(cls, logdir: str | Path, method: str | None, task: str | None, name: str, *others: str) -> "list[Run]":
        """Like `find`, with all seeds of a run that was started with `--seeds`, in their order.

        Args:
            others: Patterns of tasks, of which it may be as well, if none of `task` has the name.
        """
        root, tasks = Path(logdir), (glob.escape(task), *others) if task else ("*",)
        named = (sorted(root.glob(f"{method or '*'}/{of}/{glob.escape(name)}"), key=_age) for of in tasks)
        for place in (Path(name), *chain.from_iterable(named)):
            seeds = sorted(place.glob("seed-*/config.json"), key=lambda path: int(path.parent.name[5:]))
            alone = place / "config.json"
            if found := [alone] if alone.exists() else seeds:
                return [cls.open(path.parent)._of(method, task, others) for path in found]
        known = {path.relative_to(root).parts[2] for path in _all_runs(root, method, task)}
        start = f"python main.py train{f' --method {method}' if method else ''} --task {task or 'TASK'} --savedir NAME"
        if not known:
            raise UserError(f"There is no run {name!r}, nor any other of {task or 'any task'}, under {root}.", start)
        kind = " ".join(filter(None, (method, task, "run")))
        raise unknown_name(kind, name, known, f"ls {root}, or {start}")

    def _of(self, method: str | None, task: str | None, others: Sequence[str]) -> "Run":
        """Itself, if it is of that method and task, or others: one that is named by its path might be of any."""
        source = str(self.config.get("task", task))
        try:
            own = source if source == task or task is None else get_task(source).name
        except UserError:  # a task of one's own, whose module is elsewhere
            own = self.group.parent.name
        of_method = self.config.get("method")
        checked = ("task", task, others, own, source), ("method", method, (), of_method, of_method)
        for flag, asked, more, is_of, name in checked:
            if asked and is_of and not any(fnmatchcase(is_of, of) for of in (asked, *more)):
                what = f"{self.path} is a run of {is_of}, not of {asked}."
                raise UserError(what, f"--{flag} {name}, or name a run of {asked}")
        return self

    @classmethod
    def all(cls, logdir: str | Path, method: str | None = None, task: str | None = None) -> "list[Run]":
        """Every run under `logdir`, seeds one by one, in the order of their paths; one may be damaged, and says so."""
        runs = []
        for path in sorted(_all_runs(Path(logdir), method, task)):
            try:
                runs.append(cls.open(path))
            except CheckpointError as error:
                of_method, of_task, *_ = path.relative_to(logdir).parts
                why = "(settings damaged)" if isinstance(error, DamagedError) else "(not of this version)"
                runs.append(cls(path, {"method": of_method, "task": of_task, "damaged": why}))
        return runs

    @classmethod
    def newest(cls, logdir: str | Path, method: str | None, task: str) -> "Run | None":
        """The run of a task that saved last, or None."""
        saved = [path for path in _all_runs(Path(logdir), method, task) if (path / "last").exists()]
        return cls.open(min(saved, key=lambda path: _age(path / "last"))) if saved else None

    @property
    def name(self) -> str:
        """The name within its task, `NAME` or `NAME/seed-0`."""
        return f"{self.group.name}/{self.path.name}" if self.group != self.path else self.path.name

    @property
    def teacher(self) -> str:
        """Name of the teacher that the run was started with."""
        return str(self.config["teacher"]["teacher"])

    @property
    def group(self) -> Path:
        """The directory that the seeds of this run share; the run's own if it has one seed."""
        seeded = self.path.name.startswith("seed-") and not (self.path.parent / "config.json").exists()
        return self.path.parent if seeded else self.path

    @property
    def controller(self) -> Path:
        """Folder of the distilled controller, which can be used without the rest of the run."""
        return self.path / "controller"

    @property
    def labels(self) -> Path:
        """Its label store."""
        return self.path / "labels.sqlite"

    @contextlib.contextmanager
    def beginning(self) -> Iterator[None]:
        """While teacher and student are set up: where that fails, a new run gives its name back."""
        try:
            yield
        except Exception:
            if len(self.manifest()["starts"]) == 1 and self.last_step is None:
                shutil.rmtree(self.path, ignore_errors=True)
            raise

    def conclude(self, result: Mapping[str, Any]) -> None:
        """Leave the result line of training in `result.json`, where `report` finds it."""
        write_result(self.path / "result.json", result)

    def results(self) -> dict[str, Any]:
        """The result lines of training and of `eval`, the latter's where both have a say; empty before either.

        Raises:
            DamagedError: One of them is damaged.
        """
        lines = [path for path in (self.path / "result.json", self.path / "eval.json") if path.exists()]
        return {key: value for path in lines for key, value in read_result(path).items()}

    @property
    def last_step(self) -> int | None:
        """Step of the checkpoint that `load` would read; None before the first one."""
        return max(self.saved_steps(), default=None)

    @property
    def version(self) -> str:
        """Step and digest of the last checkpoint, of which there is one."""
        step = self.last_step or 0
        return f"{step}-{file_digest(self.checkpoint(step) / STRUCTURE)[:8]}"  # it holds the digest of the weights

    def saved_steps(self) -> list[int]:
        """Steps of the checkpoints on the disk, ascending."""
        return sorted(int(path.name) for path in self.path.glob("checkpoints/*") if path.name.isdigit())

    def checkpoint(self, step: int) -> Path:
        """Folder of one checkpoint."""
        return self.path / "checkpoints" / str(step)

    def save(self, step: int, tree: Any) -> None:
        """Save a tree (see `checkpoint.py`) as the state after `step` environment steps; the last two are kept.

        Raises:
            UserError: The disk is full or read-only; earlier checkpoints are untouched.
        """
        save_tree(self.checkpoint(step), tree, {"step": step})
        write_file(self.path / "last", f"checkpoints/{step}\n".encode())
        for other in sorted({*self.saved_steps()} - {step})[: 1 - KEPT_CHECKPOINTS]:
            shutil.rmtree(self.checkpoint(other), ignore_errors=True)

    def load(self) -> tuple[int, Any]:
        """The last checkpoint as `(step, tree)`.

        Raises:
            CheckpointError: There is none, or it is damaged; the message names the one before it, if any.
        """
        step = self.last_step
        if step is None:
            advice = "repeat the command of its training with --resume"
            raise CheckpointError(f"{self.path} holds no checkpoint yet.", advice)
        folder, older = self.checkpoint(step), [other for other in self.saved_steps() if other < step]
        try:
            return step, load_tree(folder)[0]
        except DamagedError as error:
            if not older:
                raise
            back = f"mv {folder} {folder}.damaged  # then --resume continues from step {older[-1]:,}"
            raise DamagedError(error.what, back) from error

    def restore(self, accept: Callable[[Any], object]) -> int:
        """Hand the last checkpoint's tree to `accept`, which raises if it does not fit; returns the step.

        Raises:
            CheckpointError: As `load`; or the tree does not fit, since the code has changed, or it is of another task.
        """
        step, tree = self.load()
        try:
            accept(tree)
        except (RuntimeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise self._misfit(step, error) from error
        return step

    def _misfit(self, step: int, error: Exception) -> CheckpointError:
        starts, folder = self.manifest()["starts"], self.checkpoint(step)
        commit = ([start for start in starts if start["from_step"] < step] or starts)[-1]["commit"]
        method, task = self.config.get("method"), self.config.get("task")
        reason = (str(error).splitlines() or [type(error).__name__])[-1].strip().rstrip(".")
        if commit != _commit() and "shape" not in reason:
            what = f"{folder} does not fit this version of the program ({reason}); it was saved by commit"
            checkout = f"git checkout {(commit or 'COMMIT').removesuffix('+changes')}"
            return CheckpointError(
                f"{what} {commit or 'unknown'}.", f"{checkout}, or train again under another --savedir"
            )
        what = f"{folder} is of {method} on {task}, and does not fit what is asked for: {reason}."
        return CheckpointError(what, f"--task {task} --method {method}, or the name of another run")

    def metrics(self, *, total_steps: int = 0, quiet: bool = False) -> Metrics:
        """The writer of this run's numbers."""
        again = len(self.manifest()["starts"]) > 1
        resumed_at = (self.last_step or 0) if again else None
        return Metrics(self.path, total_steps=total_steps, quiet=quiet, resumed_at=resumed_at)

    def manifest(self) -> dict[str, Any]:
        """Versions, platform, and one entry per start of the run, with its commit."""
        return read_json(self.path / "manifest.json", kind=MANIFEST, schema=SCHEMAS[MANIFEST])

    def annotate(self, **facts: Any) -> None:
        """Add facts to the manifest, such as what the teacher turned out to be capable of. Never a secret."""
        write_json(self.path / "manifest.json", {**self.manifest(), **without_passwords(facts)})

    def _note_start(self) -> None:
        path = self.path / "manifest.json"
        earlier = self.manifest() if path.exists() else {}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        start = {"at": now, "from_step": self.last_step or 0, "commit": _commit(), "argv": without_passwords(sys.argv)}
        facts = {"format": MANIFEST, "schema": SCHEMAS[MANIFEST], "python": platform.python_version()}
        facts |= {"platform": platform.platform(), "versions": {name: version(name) for name in VERSIONED}}
        write_json(path, {**earlier, **facts, "starts": [*earlier.get("starts", []), start]})


def _occupied(path: Path) -> bool:
    return path.is_dir() and any(not inside.name.startswith(".") for inside in path.iterdir())


def _all_runs(root: Path, method: str | None, task: str | None) -> Iterator[Path]:
    group = f"{method or '*'}/{glob.escape(task or '') or '*'}"
    for pattern in ("*", "*/seed-*"):
        yield from (path.parent for path in root.glob(f"{group}/{pattern}/config.json"))


def _age(path: Path) -> float:
    return -path.stat().st_mtime


def _commit() -> str | None:
    """The commit of the code, with `+changes` if the working tree differs; None outside a repository."""
    ask = ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+changes"]
    try:
        done = subprocess.run(ask, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

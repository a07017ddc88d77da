"""What is said of a grid: many tasks, settings and seeds in one command, and where they are trained."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro
from annotated_types import Ge, MaxLen

from preceptor.ground.errors import UserError
from preceptor.ground.ranges import Count, CountOrNone

_EXAMPLE = "--set-grid lr=1e-3,3e-4"
_SAID_OTHERWISE = {"task": "--tasks A,B", "seed": "--seeds 0:4", "seeds": "--seeds 0:4"}
_OF_THE_COMMAND = ("savedir", "logdir", "resume", "quiet", "json", "debug", "set", "config")


@dataclass(frozen=True)
class GridConfig:
    """Many runs as one command, tasks x settings x --seeds, each a trial in a run folder of its own. The same command
    again leaves out what is finished, continues what was interrupted, and tries again what failed."""

    tasks: tuple[str, ...] = ()
    """Several tasks, with commas."""
    set_grid: tuple[str, ...] = ()
    """NAME=A,B of any flag of train, all combinations of them; NAME=A|B where values have commas."""
    jobs: Count | None = None
    """Trials at a time, each in a process of its own; one if not given. Of --slurm and --ray, at most so many."""
    ray: Annotated[tuple[str, ...] | None, MaxLen(1)] = None
    """ADDRESS of a cluster of Ray on which trials are trained, wherever there is room; the one that runs here, or else
    this machine's cores, if no address is given."""
    asha: Annotated[int, Ge(2)] | None = None
    """Early stopping (successive halving): after 1/N² and 1/N of the steps, a trial goes on only if it is among the
    best 1/N of its task so far, by the success that --eval-every finds."""
    slurm: bool = False
    """Print a script for SLURM's sbatch, with a trial per array index, and do nothing else."""
    trial: CountOrNone | None = None
    """Train this trial alone, here; the first is 0."""
    said: tyro.conf.Suppress[dict[str, Any]] = field(default_factory=dict, compare=False)
    """All that was said of the run's settings, by name: each trial is configured from it."""

    @property
    def asked(self) -> bool:
        """Whether there is more to do than one run, or several one after another."""
        return bool(
            len(tasks_of(self.tasks)) > 1
            or self.set_grid
            or self.slurm
            or (self.jobs, self.ray, self.asha, self.trial) != (None,) * 4
        )


def tasks_of(said: str | Iterable[str]) -> list[str]:
    """The tasks in what was said; `KeyInBox:rooms=12-14,apart=red-green` is one.

    Raises:
        UserError: One is said twice.
    """
    parts = [part.strip() for part in _text(said).split(",") if part.strip()]
    found: list[str] = []
    for part in parts:
        if found and "=" in part and ":" not in part:
            found[-1] += f",{part}"
        else:
            found.append(part)
    if len(set(found)) < len(found):
        raise UserError(f"--tasks {','.join(found)} names a task twice.", f"--tasks {','.join(dict.fromkeys(found))}")
    return found


def settings_of(said: str | Iterable[str]) -> dict[str, list[str]]:
    """The values of each setting of a grid, by its name.

    Raises:
        UserError: It is not of the form NAME=A,B, is said twice, or is no setting of a trial.
    """
    found: dict[str, list[str]] = {}
    for text in re.split(r"[,\s]+(?=[\w.-]+=)", _text(said)) if said else ():
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not values.strip():
            raise UserError(f"--set-grid {text} is not of the form NAME=VALUES.", _EXAMPLE)
        if name in _SAID_OTHERWISE or name in _OF_THE_COMMAND or name in GridConfig.__dataclass_fields__:
            what = f"--set-grid {text}: {name} is no setting that trials differ in."
            raise UserError(what, _SAID_OTHERWISE.get(name, _EXAMPLE))
        choices = [value.strip() for value in values.split("|" if "|" in values else ",")]
        if name in found or len(set(choices)) < len(choices) or not all(choices):
            raise UserError(f"--set-grid {text} says a name or a value twice, or an empty one.", _EXAMPLE)
        found[name] = choices
    return found


def first_of(words: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of the first trial by a grid: its task and settings. Raises `UserError` as those do."""
    tasks = tasks_of(words.get("tasks", ()))
    return {
        **{name: values[0] for name, values in settings_of(words.get("set_grid", ())).items()},
        **({"task": tasks[0]} if tasks else {}),
    }


def _text(said: str | Iterable[str]) -> str:
    return said if isinstance(said, str) else ",".join(said)

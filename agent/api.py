"""What is typed in a notebook: train an agent, load it, play it, judge it. The command line says the same in words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym

from preceptor.agent.acting import Agent
from preceptor.agent.config import configure, from_plain
from preceptor.agent.evaluate import evaluate as _evaluate
from preceptor.agent.evaluate import load_student
from preceptor.agent.export.playing import is_export
from preceptor.agent.export.playing import load as load_export
from preceptor.agent.flags import EvalConfig
from preceptor.agent.runs.run import Run
from preceptor.agent.train import OnUpdate
from preceptor.agent.train import train as _train
from preceptor.envs.catalog import get_task
from preceptor.envs.task import Task
from preceptor.ground.level_seeds import SEEDS_PER_SPLIT


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        path: Its directory.
        result: What it came to: success, return and length of the student on held-out levels, steps, calls, seconds.
    """

    path: Path
    result: dict[str, Any]

    def load(self, *, greedy: bool = False, seed: int | None = None) -> Agent:
        """The trained agent; see `load`."""
        return load(self.path, greedy=greedy, seed=seed)


def train(
    task: str | type[Task], method: str = "ihac", *, on_update: OnUpdate | None = None, **settings: Any
) -> Trained:
    """Train an agent, as `preceptor train` does.

    Args:
        task: A name (`preceptor tasks`), a Gymnasium id, `module:Name`, or a `Task` class.
        method: A name (`preceptor methods`).
        on_update: Called with the step and the metrics whenever some are written; the run saves and ends early if it
            returns False.
        **settings: Any flag of `preceptor train --method METHOD --help`, `_` for `-`; nested ones as
            `**{"low.hidden": [64, 64]}`. `savedir` names the run, `seeds=[0, 1, 2]` trains one after another; with
            `set_grid`, `tasks` or `jobs`, each run is a process, and the path is that of the grid's table.

    Raises:
        UserError: A name or a value that is not known; a run of that name exists already.
    """
    config = configure({"quiet": True, **settings}, task=_name_of(task), method=method)
    result = _train(config, on_update)
    if "grid" in result:
        return Trained(Path(result["grid"]), result)
    first = result["runs"][0] if "runs" in result else result
    path = Path(first["run"])
    return Trained(path.parent if "runs" in result else path, result)


def load(run: str | Path, *, greedy: bool = False, seed: int | None = None, logdir: str = "log") -> Agent:
    """The student of a run, ready to act; no teacher, label store or network connection is opened.

    Args:
        run: Its directory, its name under `logdir`, or an export of it.
        greedy: Whether it takes the most probable option and action instead of sampling them.
        seed: Of the sampling.
        logdir: Where runs live.

    Raises:
        UserError: There is no such run, or it holds several seeds.
        CheckpointError: It has saved nothing yet, or what it saved is damaged.
    """
    if is_export(run):
        return load_export(run, greedy=greedy, seed=seed)
    found = Run.find(logdir, None, None, str(run))
    task = get_task(from_plain(found.config).task)
    return Agent(task, load_student(found, task), greedy=greedy, seed=seed)


def evaluate(run: str | Path, *, episodes: int = 500, compare: str = "student", logdir: str = "log") -> dict[str, Any]:
    """Success, return and length on held-out levels, sampled and greedy, as `preceptor eval` prints them.

    Args:
        run: Its directory, or its name under `logdir`; of several seeds, all are averaged.
        episodes: Held-out levels.
        compare: Players, with commas: teacher, student, controller, scripted, random.
        logdir: Where runs live.

    Raises:
        UserError: There is no such run or player.
    """
    task = str(Run.find_all(logdir, None, None, str(run))[0].config["task"])
    levels = f"{SEEDS_PER_SPLIT}:{SEEDS_PER_SPLIT + episodes}"
    return _evaluate(EvalConfig(task=task, loaddir=str(run), logdir=logdir, compare=compare, seeds=levels, quiet=True))


def make(task: str | type[Task], split: str = "eval", render_mode: str | None = None) -> gym.Env[Any, Any]:
    """A task's single environment, as agents play it and `gymnasium` users know it.

    Args:
        task: As for `train`.
        split: `eval`, the levels that training never sees, or `train`; `reset` draws one, or plays
            `options={"level_seed": seed}`.
        render_mode: None or `rgb_array`; where the environment knows others, also those.

    Raises:
        UserError: The task or the split is not known.
    """
    return get_task(_name_of(task)).make_env(split, render_mode)


def _name_of(task: str | type[Task]) -> str:
    return task if isinstance(task, str) else f"{task.__module__}:{task.__qualname__}"

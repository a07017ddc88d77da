"""What `doctor --run` looks at in a run directory: whether all that a run reads back can be read."""

import contextlib
import sqlite3

from preceptor.agent.data.recording import Recording
from preceptor.agent.demonstrating import DEMONSTRATIONS
from preceptor.agent.halo.ledger import FILE as LEDGER
from preceptor.agent.halo.ledger import ledger_lines
from preceptor.agent.runs.checkpoint import load_tree
from preceptor.agent.runs.metrics import FILE, damaged_lines, read_metrics
from preceptor.agent.runs.results import read_result
from preceptor.agent.runs.run import Run
from preceptor.controller.checkpoint import load_controller
from preceptor.envs.catalog import get_task
from preceptor.ground.errors import Doubt, UserError
from preceptor.teacher.labels import LabelStore

_AGAIN = "repeat its command with --resume"


def check_settings(run: Run) -> str:
    """Whether the settings can be read."""
    opened = Run.open(run.path)
    facts = {key: opened.config.get(key) for key in ("method", "task", "seed")} | {"teacher": opened.teacher}
    return ", ".join(f"{key} {fact}" for key, fact in facts.items() if fact is not None)


def check_manifest(run: Run) -> str:
    """Whether it is known what the run ran on."""
    manifest = run.manifest()
    starts = manifest["starts"]
    return f"commit {str(starts[-1]['commit'])[:12]}, {len(starts)} start(s), Python {manifest['python']}"


def check_metrics(run: Run) -> str:
    """Whether every line of the metrics parses."""
    path = run.path / FILE
    if not path.exists():
        raise Doubt("none yet", f"{_AGAIN}  # starts it over")
    rows, damaged = read_metrics(path), damaged_lines(path)
    if damaged:
        what = f"{damaged} of {len(rows) + damaged} lines are damaged or cut short, and left out"
        raise Doubt(what, f"{_AGAIN}  # cuts off those at the end")
    return f"{len(rows)} lines up to step {rows[-1]['step']:,}" if rows else "none yet"


def check_checkpoints(run: Run) -> str:
    """Whether all checkpoints load."""
    saved = run.saved_steps()
    for step in saved:
        load_tree(run.checkpoint(step))
    if not saved:
        raise Doubt("none yet", f"{_AGAIN}  # starts it over")
    return f"load at steps {', '.join(f'{step:,}' for step in saved)}; --resume continues from {run.last_step:,}"


def check_controller(run: Run) -> str:
    """Whether the distilled controller is one of the run's task."""
    if not run.controller.exists():
        return "none, as with --method ppo, or before distillation has ended"
    config = Run.open(run.path).config
    load_controller(run.controller, get_task(config["task"], config["teacher_flaw"]))
    return "loads for its task"


def check_labels(run: Run) -> str:
    """Whether SQLite finds the label store intact, and every row is what was written."""
    if not run.labels.exists():
        return "no label store"
    with contextlib.closing(sqlite3.connect(f"{run.labels.resolve().as_uri()}?mode=ro", uri=True)) as store:
        verdict = store.execute("PRAGMA integrity_check").fetchone()[0]
    if verdict != "ok":
        raise UserError(f"SQLite says {verdict}", f"rm {run.labels}")
    with LabelStore(run.labels, read_only=True) as labels:
        return f"{len(labels.calls(answers_only=False))} calls; SQLite says ok"


def check_results(run: Run) -> str:
    """Whether what training and `eval` came to can be read."""
    episodes = [read_result(path) for path in run.path.glob("episodes/*.json")]
    return f"{len(run.results())} facts, {len(episodes)} lists of episodes"


def check_demonstrations(run: Run) -> str:
    """Whether the demonstrations are of the run's task, and what was said about them can be read."""
    if not (run.path / DEMONSTRATIONS).exists():
        return "none, as with methods that learn from none"
    recording, _ = Recording.load(run.path / DEMONSTRATIONS)
    recording.fits(get_task(Run.open(run.path).config["task"]))
    try:
        lines = ledger_lines((run.path / LEDGER).read_bytes()) if (run.path / LEDGER).exists() else []
    except ValueError as error:
        raise UserError(f"{run.path / LEDGER} is damaged: {error}", "restore it, or train again") from error
    return f"{len(recording)} demonstrations, {len(lines)} lines of questions and answers"


PARTS = {
    "settings": check_settings,
    "manifest": check_manifest,
    "metrics": check_metrics,
    "checkpoints": check_checkpoints,
    "controller": check_controller,
    "labels": check_labels,
    "demonstrations": check_demonstrations,
    "results": check_results,
}

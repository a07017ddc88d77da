"""`doctor --data`: which demonstrations and which action groups look bad, before anything was learned and after."""

import hashlib
from typing import Any

import numpy as np

from preceptor.agent.data.recording import Recording
from preceptor.agent.demonstrating import gathered
from preceptor.agent.flags import DoctorConfig
from preceptor.agent.methods.hvd import HvdSettings
from preceptor.agent.methods.hvd_checks import check_demonstrations, doubts
from preceptor.agent.runs.blame import LOW, Weighed, weighed, weighing_run
from preceptor.agent.runs.carried import task_of
from preceptor.envs.action_groups import action_groups_of
from preceptor.envs.task import Task
from preceptor.ground.errors import UserError

_MANY = 2 * LOW  # so large a share of low weights makes a group look bad; by chance it is LOW
_MORE = 0.25  # so much more at its bounds than in the median demonstration makes a group look bad
_BOUND = 1 - 1e-5
_ROWS = 20  # demonstrations that are told of


def examine_data(config: DoctorConfig) -> dict[str, Any]:
    """What `doctor --data` says: `{"summary": text, "demonstrations": [facts, ...], "table": rows, "next": text}`.

    With a run of hvd the demonstrations are those that it learned from, and its weights count.

    Raises:
        UserError: There are no such demonstrations, they are not of the task or damaged (NaN, other shapes), or the run
            has other ones, or weighed none.
    """
    found = None
    if config.run:
        run = weighing_run(config.run, config.logdir, config.task)
        if (own := run.config["settings"]["demos"]) != config.data:
            raise UserError(f"{run.path} learned from {own}, not from {config.data}.", f"--data {own}, or no --run")
        found = weighed(run)
        task, recording = found.task, found.recording
        advice = f"python main.py report {run.path} --faults  # shows at which steps"
    elif config.task is None:
        raise UserError("It is not said of which task these demonstrations are.", "--task WholeBodyTwin")
    else:
        task = task_of(config.task, config.logdir)
        recording, _ = gathered(str(config.data), task, 0)
        train = f"python main.py train --method hvd --task {task.source} --demos {config.data} --savedir weighed"
        again = f"python main.py doctor --data {config.data} --run weighed"
        advice = f"{train}\nthen: {again}  # which weighs each group at each step"
    facts = quality(task, recording, found)
    rows = [{title: _words(value) for title, value in fact.items()} for fact in facts[:_ROWS]]
    said = _together(task, recording, HvdSettings(demos=str(config.data)))
    return {"summary": said, "demonstrations": facts, "table": rows, "next": f"next: {advice}"}


def quality(task: Task, recording: Recording, found: Weighed | None = None) -> list[dict[str, Any]]:
    """Facts about each demonstration, the worst first: by the share of low weights, or without weights by success and
    return."""
    groups = list(action_groups_of(task).items()) if task.continuous else []
    won, first = recording.extra.get("success"), _first_alike(recording)
    at_bounds = np.zeros((len(recording), len(groups)))  # shares of their actions
    facts: list[dict[str, Any]] = []
    for n, length in enumerate((recording.lengths - 1).tolist()):
        parts = [recording.action[n, :length, list(group)] for _, group in groups]  # [dimensions, length]
        at_bounds[n] = [(np.abs(part) >= _BOUND).mean() for part in parts]
        bad = [f"the same as {first[n]}"] if first[n] < n else []
        bad += [f"{name} constant" for (name, _), part in zip(groups, parts, strict=True) if not np.ptp(part, 1).any()]
        fact: dict[str, Any] = {"demonstration": n, "level": int(recording.level_seed[n])}
        fact |= {} if won is None else {"success": bool(won[n].any())}
        fact |= {"return": float(recording.returns[n]), "length": length}
        for name, share in zip(found.names, found.low[n].tolist(), strict=True) if found else ():
            fact[f"low {name}"] = share
            bad += [f"{name} weighs little"] if share >= _MANY else []
        facts.append(fact | {"looks bad": bad})
    for n, g in np.argwhere(at_bounds >= np.median(at_bounds, 0) + _MORE):
        facts[n]["looks bad"].append(f"{groups[g][0]} at its bounds in {at_bounds[n, g]:.0%}")
    if found is not None:
        return [facts[n] for n in found.order]
    return sorted(facts, key=lambda fact: (fact.get("success", True), fact["return"], -len(fact["looks bad"])))


def _first_alike(recording: Recording) -> list[int]:
    """Of each demonstration, the first one that saw and did the same: itself, or a duplicate."""
    seen: dict[bytes, int] = {}
    digests = (
        hashlib.sha256(recording.obs[n, :length].tobytes() + recording.action[n, :length].tobytes()).digest()
        for n, length in enumerate(recording.lengths)
    )
    return [seen.setdefault(digest, n) for n, digest in enumerate(digests)]


def _together(task: Task, recording: Recording, settings: HvdSettings) -> str:
    """All demonstrations in a line, what hvd would say of them, and what is the same in all."""
    returns, lengths, won = recording.returns, recording.lengths - 1, recording.extra.get("success")
    head = f"{len(lengths)} demonstrations of {task.name}, {lengths.sum():,} steps, {lengths.min()} to {lengths.max()}"
    head += f" each; return {returns.mean():.2f} ({returns.min():.2f} to {returns.max():.2f})"
    lines, names = [head if won is None else f"{head}; success {won.any(1).mean():.2f}"], tuple(action_groups_of(task))
    try:
        check_demonstrations(task, settings, recording, names, None)
        lines += doubts(task, settings, recording, names)
    except UserError as error:
        lines.append(str(error))
    columns = ("observation", recording.obs, recording.inside), ("action", recording.action, recording.acted)
    for name, column, inside in columns:
        if column.ndim == 3 and (still := np.flatnonzero(np.ptp(column[inside], axis=0) == 0)).size:
            lines.append(f"{name} dimensions that never change: {', '.join(map(str, still))}")
    return "\n".join([*lines, *([f"The {_ROWS} worst (all of them: --json):"] if len(lengths) > _ROWS else [])])


def _words(value: Any) -> str:
    """A cell of the table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else ", ".join(value) if isinstance(value, list) else str(value)

"""`doctor --data`: which demonstrations and which action groups look bad, before anything was learned and after."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.data.recording import Recording
from preceptor.agent.demonstrating import gathered
from preceptor.agent.flags import DoctorConfig
from preceptor.agent.runs.blame import LOW, Weighed, weighed, weighing_run
from preceptor.agent.runs.carried import task_of
from preceptor.envs.task import Task, action_groups_of
from preceptor.ground.errors import UserError

_MANY = 2 * LOW  # so large a share of low weights makes a group look bad; by chance it is LOW
_MORE = 0.25  # so much more at its bounds than in the median demonstration makes a group look bad
_BOUND, _SAME = 1 - 1e-5, 1e-6
_ROWS = 20  # demonstrations that are told of


def examine_data(config: DoctorConfig) -> dict[str, Any]:
    """What `doctor --data` says: `{"demonstrations": [facts, ...], "table": rows, "next": text}`, worst first.

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
        if len(groups_of(task)) < 2:
            advice = f"{task.name} has one group of actions, so that no part of an action can be told from another"
    facts = quality(task, recording, found)
    if found is None and not recording.reward.any():
        advice = f"python main.py train --method bc --task {task.source} --demos {config.data}  # without rewards"
    rows = [{title: _words(value) for title, value in fact.items()} for fact in facts[:_ROWS]]
    said = _together(task, recording, facts)
    return {"summary": said, "demonstrations": facts, "table": rows, "next": f"next: {advice}"}


def groups_of(task: Task) -> Mapping[str, tuple[int, ...]]:
    """The groups of a task's actions; none of named actions."""
    return action_groups_of(task) if task.continuous else {}


def quality(task: Task, recording: Recording, found: Weighed | None = None) -> list[dict[str, Any]]:
    """Facts about each demonstration, the worst first: by the share of low weights, or without weights by what is wrong
    with it, success and return."""
    won, same, groups = recording.extra.get("success"), _duplicates(recording), list(groups_of(task).items())
    at_bounds = np.zeros((len(recording), len(groups)))  # shares of their actions
    facts = []
    for n, length in enumerate((recording.lengths - 1).tolist()):
        parts = [recording.action[n, :length, list(group)] for _, group in groups]  # [dimensions, length]
        at_bounds[n] = [(np.abs(part) >= _BOUND).mean() for part in parts]
        bad = [f"{name} constant" for (name, _), part in zip(groups, parts, strict=True) if not np.ptp(part, 1).any()]
        fact: dict[str, Any] = {"demonstration": n, "level": int(recording.level_seed[n])}
        fact |= {} if won is None else {"success": bool(won[n].any())}
        fact |= {"return": float(recording.returns[n]), "length": length}
        if same[n] >= 0:
            bad.insert(0, f"the same as {same[n]}")
        if found is not None:
            low = dict(zip(found.names, found.low[n].tolist(), strict=True))
            fact |= {f"low {name}": share for name, share in low.items()}
            bad = [f"{name} weighs little" for name, share in low.items() if share >= _MANY] + bad
        facts.append(fact | {"looks bad": bad})
    for n, g in np.argwhere(at_bounds >= np.median(at_bounds, 0) + _MORE):
        facts[n]["looks bad"].append(f"{groups[g][0]} at its bounds in {at_bounds[n, g]:.0%}")
    if found is not None:
        return [facts[n] for n in found.order]
    return sorted(facts, key=lambda fact: (fact.get("success", True), fact["return"], -len(fact["looks bad"])))


def _together(task: Task, recording: Recording, facts: list[dict[str, Any]]) -> str:
    """What can be said of all demonstrations together, a line each."""
    returns, lengths, won = recording.returns, recording.lengths - 1, recording.extra.get("success")
    lines = [f"{len(facts)} demonstrations of {task.name}, {lengths.sum():,} steps, {lengths.min()} to {lengths.max()}"]
    lines[0] += f" each; return {returns.mean():.2f} ({returns.min():.2f} to {returns.max():.2f})"
    if won is not None:
        lines[0] += f"; success {won.any(1).mean():.2f}"
    if not recording.terminated.any():
        lines.append("No episode terminated: all were cut by a time limit, and values look beyond their ends.")
    if not (recording.reward * recording.acted).any():
        lines.append("There are no rewards, so that nothing can be valued.")
    elif np.ptp(returns) < _SAME:
        lines.append("All have the same return, so that values can tell them apart by their lengths alone.")
    columns = ("observation", recording.obs, recording.inside), ("action", recording.action, recording.acted)
    for name, column, inside in columns:
        if column.ndim == 3 and (still := np.flatnonzero(np.ptp(column[inside], axis=0) == 0)).size:
            lines.append(f"{name.capitalize()} dimensions that never change: {', '.join(map(str, still))}.")
    if same := sum(any(words.startswith("the same as") for words in fact["looks bad"]) for fact in facts):
        lines.append(f"{same} are there twice.")
    if len(facts) > _ROWS:
        lines.append(f"The {_ROWS} worst (all of them: --json):")
    return "\n".join(lines)


def _words(value: Any) -> str:
    """A cell of the table."""
    if isinstance(value, float):
        return f"{value:.2f}"
    return (
        ", ".join(value)
        if isinstance(value, list)
        else {True: "yes", False: "no"}[value]
        if isinstance(value, bool)
        else str(value)
    )


def _duplicates(recording: Recording) -> NDArray[np.int64]:
    """The first demonstration that saw and did the same as each, [N]; -1 for the first itself."""
    seen: dict[bytes, int] = {}
    first = np.full(len(recording), -1)
    for n, length in enumerate(recording.lengths):
        columns = recording.obs[n, :length], recording.action[n, :length]
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(column).tobytes() for column in columns)).digest()
        if (earlier := seen.setdefault(digest, n)) != n:
            first[n] = earlier
    return first

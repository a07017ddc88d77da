"""The model card of an export, in Markdown: what it is, what it learned from, what it came to, and its limits."""

from collections.abc import Iterable, Mapping
from typing import Any

from preceptor.agent.config import from_plain
from preceptor.agent.methods import METHODS
from preceptor.agent.runs.run import Run
from preceptor.envs.task import Task

_PLAY = """```python
import preceptor.runtime

agent = preceptor.runtime.load("{folder}", greedy=True)
env = agent.task.make_env()
observation, info = env.reset()
action = agent.act(observation)  # agent.option says what it is about; agent.reset() before the next episode
```"""


def model_card(run: Run, task: Task, said: Mapping[str, Any]) -> str:
    """The card of an export, of its run's settings and results, and of its manifest."""
    trained, result, method = from_plain(run.config), run.results(), str(run.config["method"])
    demos = getattr(trained.settings, "demos", None)
    commit = run.manifest()["starts"][-1]["commit"]
    facts = {
        "Task": f"{task.source}: {task.goal}",
        "Method": f"{method}: {METHODS[method][1]}",
        "Run": f"`{run.name}`, seed {trained.seed}, {said['run']['step']:,} steps, commit {commit or 'unknown'}",
        "Sees": _sees(said["observation"]),
        "Does": f"{task.num_actions} numbers in [-1, 1]" if task.continuous else f"one of {task.num_actions} actions",
        "Format": f"{said['runtime']}, schema {said['schema']}, written {said['made']['at']}",
    }
    learned = {
        "Environment steps": f"{result.get('steps', said['run']['step']):,}",
        "Demonstrations": _demonstrations(str(demos or "")),
        "Teacher": _teacher(run, result),
    }
    parity = said["parity"]
    checked = (
        f"At export, {parity['observations']:,} observations were played by the run and compared: "
        f"{parity['differed']} greedy choices differed, numbers by at most {parity['largest_difference']:.1g}."
    )
    parts = [
        f"# {run.name}: {method} on {task.name}",
        _listed(facts),
        "## Options\n\n" + "\n".join(f"- {option.words} (`{option.id}`)" for option in task.options),
        "## What it learned from\n\n" + _listed(learned),
        "## What it came to\n\n" + _figures(result) + f"\n\n{checked}",
        "## Limits\n\n" + "\n".join(f"- {line}" for line in _limits(task, result, said)),
        "## Playing it\n\n" + _PLAY.format(folder=f"path/to/{said['runtime']}"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _listed(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {fact}" for name, fact in facts.items() if fact)


def _sees(observation: Mapping[str, Any]) -> str:
    shape = " x ".join(map(str, observation["shape"]))
    return f"{observation['dtype']} numbers, {shape}, for each environment"


def _demonstrations(demos: str) -> str:
    return f"{demos} demonstrations of the task's expert" if demos.isdecimal() else demos


def _teacher(run: Run, result: Mapping[str, Any]) -> str:
    """Who taught it, and what that took."""
    name = str(result.get("teacher") or run.teacher)
    if not result.get("queries"):
        return "none"
    model = run.manifest().get("teacher", {})
    known = f" ({model['model']})" if isinstance(model, dict) and model.get("model") else ""
    calls = f", {result['calls']:,} calls" if result.get("calls") else ""
    return f"{name}{known}: {result['queries']:,} queries{calls}"


def _figures(result: Mapping[str, Any]) -> str:
    """The student on held-out levels, with intervals, as the run's own result files have it."""
    if "student" not in result:
        return "Not judged: the run has left no result yet (`python main.py eval`)."
    rows: Iterable[str] = (
        f"| {mode} | {score['success']:.3f} [{score['low']:.3f}, {score['high']:.3f}] | {score['return']:.3g} "
        f"[{score['return_low']:.3g}, {score['return_high']:.3g}] | {score['length']:.1f} | {score['episodes']:,} |"
        for mode, score in result["student"].items()
    )
    head = "| choices | success | return | steps | held-out episodes |\n| --- | --- | --- | --- | --- |"
    return "\n".join([head, *rows])


def _limits(task: Task, result: Mapping[str, Any], said: Mapping[str, Any]) -> list[str]:
    """What the figures do not say."""
    episodes = max((score["episodes"] for score in result.get("student", {}).values()), default=0)
    lines = [
        f"The figures are of one training seed, on levels of {task.name} that training did not see. Other tasks, and "
        "observations that these environments would not give, are unknown.",
        "It does not learn any more, and it asks no teacher: what it does not know, it does not say.",
    ]
    if episodes < 500:
        lines.append(f"It was judged on {episodes} episodes only: the intervals are wide.")
    if said.get("high", {}).get("plain") == "SingleOption":
        lines.append("It is flat: it has no options, and does not say what it is about.")
    if said.get("low", {}).get("plain") == "SkillLow":
        lines.append("Its actions are those of the task's scripted skills, which know the task's rules.")
    return lines

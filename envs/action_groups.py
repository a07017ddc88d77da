"""Groups of a task's actions that belong together, such as an arm's: checked, and as a person says them."""

import re

from preceptor.envs.task import Task
from preceptor.ground.errors import UserError


def action_groups_of(task: Task) -> dict[str, tuple[int, ...]]:
    """Names and positions of a task's groups of actions, in their order; one group, `all`, where it declares none.

    Raises:
        UserError: They are not groups of an action vector in which every dimension is in exactly one.
    """
    if not task.action_groups:
        return {"all": tuple(range(task.num_actions))}
    return _checked(task, {name: tuple(map(int, group)) for name, group in task.action_groups.items()}, "action_groups")


def _checked(task: Task, groups: dict[str, tuple[int, ...]], named: str) -> dict[str, tuple[int, ...]]:
    dims = tuple(range(task.num_actions))
    flat = [position for group in groups.values() for position in group]
    if task.continuous and sorted(flat) == list(dims) and all(groups.values()):
        return groups
    odd = {
        f"are no dimensions of its {len(dims)} actions, which count from 0": set(flat) - set(dims),
        "are in several": {position for position in flat if flat.count(position) > 1},
        "are in none": set(dims) - set(flat),
    }
    wrong = next((f"{sorted(which)} {words}" for words, which in odd.items() if which), "one is empty")
    if not task.continuous:
        wrong = "its actions are named, and have no dimensions"
    remedy = f"name each of 0 to {dims[-1]} once in {named}, or leave {named} out"
    raise UserError(f"The groups of actions of {task.name} cannot be used: {wrong}. They are {groups}.", remedy)


def grouped(task: Task, words: str) -> dict[str, tuple[int, ...]]:
    """Names and positions of groups of actions, in their order, as a person says them.

    Args:
        task: Whose actions.
        words: Such as `base=0-2,arm=3-6`; `each` (every dimension by itself), `all` (one group), or nothing for the
            task's own.

    Raises:
        UserError: They cannot be read, or are not groups of the task's actions.
    """
    if not words:
        return action_groups_of(task)
    if words == "all":
        return {"all": tuple(range(task.num_actions))}
    found: dict[str, tuple[int, ...]] = {f"{n}": (n,) for n in range(task.num_actions)}
    if words != "each":
        parts = [re.fullmatch(r"\s*(\w+)=(\d+)(?:-(\d+))?\s*", part) for part in words.split(",")]
        if not all(parts) or len({part[1] for part in parts if part}) < len(parts):
            example = "--groups base=0-2,arm=3-6  # names and positions, from 0"
            raise UserError(f"--groups {words} does not name groups of positions, each once.", example)
        found = {part[1]: tuple(range(int(part[2]), int(part[3] or part[2]) + 1)) for part in parts if part}
    return _checked(task, found, "--groups")

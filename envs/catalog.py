"""Task names -> tasks, with a suggestion for a misspelt name."""

from functools import cache

import gymnasium as gym

from envs.gridworld.stock_tasks import STOCK, StockTask
from envs.gridworld.tasks import TEXTS, make_task
from envs.gym_tasks import GYM_TASKS, GymTask, is_gym_task
from envs.mujoco.mazes import SPECS
from envs.rescue.specs import SPECS as RESCUE_SPECS
from envs.task import Task
from ground.errors import UserError, unknown_name

TASKS: tuple[str, ...] = tuple(TEXTS)
STOCK_TASKS: tuple[str, ...] = tuple(STOCK)
MAZE_TASKS: tuple[str, ...] = tuple(SPECS)
RESCUE_TASKS: tuple[str, ...] = tuple(RESCUE_SPECS)
FETCH_TASKS: tuple[str, ...] = ("FetchPickAndPlace",)
# The built-in language model is trained on these, so a name added here is a model to train. Of mazes one for each map:
# the others on it, whoever moves in them, read alike.
TAUGHT: tuple[str, ...] = (*TASKS, "PointReach", "PointUMaze", "PointPush", "PointFall")


def get_task(name: str, limit: str | None = None) -> Task:
    """The task of a name, in any case; the same object for the same arguments.

    Args:
        name: One of `TASKS`, `STOCK_TASKS`, `MAZE_TASKS`, `RESCUE_TASKS` or `FETCH_TASKS`, or in its own case a
            Gymnasium id: of any MiniGrid environment, or of any whose observations and actions are vectors
            (`gym_tasks.py`); as `module:id` the module that registers it is imported first (see `stock_tasks.py`).
        limit: None, or a flaw of its teacher: `lava` for LavaDoorKey, `colours` for ColoredDoorKey.

    Raises:
        UserError: An unknown name or limit, or an environment that does not fit the engine.
    """
    known = (*TASKS, *STOCK_TASKS, *MAZE_TASKS, *RESCUE_TASKS, *FETCH_TASKS, *GYM_TASKS)
    exact = {task.lower(): task for task in known}.get(name.lower())
    if exact is None and not _is_environment(name):
        raise unknown_name("task", name, known, "python main.py train --task SimpleDoorKey")
    return _make(exact or name, limit)


@cache
def _make(name: str, limit: str | None) -> Task:
    if name in TASKS:
        return make_task(name, limit)
    if limit is not None:
        raise UserError(f"The teacher of {name} has no limit.", "--task LavaDoorKey --limit lava")
    if name in MAZE_TASKS:
        from envs.mujoco.tasks import MazeTask

        return MazeTask(SPECS[name])
    if name in RESCUE_TASKS:
        from envs.rescue.tasks import RescueTask

        return RescueTask(RESCUE_SPECS[name])
    if name in FETCH_TASKS:
        from envs.fetch.tasks import FetchTask

        return FetchTask()
    return GymTask(name) if name not in STOCK_TASKS and is_gym_task(name) else StockTask(name)


def _is_environment(name: str) -> bool:
    """Whether a name is meant as a Gymnasium id: one that is registered, or that names the module which does so."""
    import minigrid  # noqa: F401  # registers its environments

    return ":" in name or name in gym.registry


def register_all() -> None:
    """Register the single-environment versions with Gymnasium; importing them is left until someone asks."""
    from envs.fetch.single import register as register_fetch
    from envs.gridworld.single import register
    from envs.mujoco.single import register as register_mazes
    from envs.rescue.single import register as register_rescue_worlds

    register()
    register_mazes()
    register_rescue_worlds()
    register_fetch()

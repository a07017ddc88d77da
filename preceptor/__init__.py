"""Preceptor: a language model teaches a hierarchical agent once; the hierarchy then runs, and improves, without it.

import preceptor

run = preceptor.train("KeyInBox", lr=3e-4, savedir="first")
agent = run.load()
action = agent.act(observation)
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from preceptor.agent.acting import Agent
    from preceptor.agent.api import Trained, evaluate, load, make, train
    from preceptor.agent.remote.async_client import AsyncClient
    from preceptor.agent.remote.client import Client
    from preceptor.envs.arrays import ArraySimulator, uniform
    from preceptor.envs.gridworld.single import SeenMap
    from preceptor.envs.gym_tasks import GymSimulator
    from preceptor.envs.task import GoalSpace, LimitedTask, Option, OptionSpace, Scene, TableTask, Task
    from preceptor.ground.errors import UserError

# Looked up when first used: importing the package loads neither torch nor an environment.
_PLACES = {
    "Agent": "agent.acting",
    "AsyncClient": "agent.remote.async_client",
    "Client": "agent.remote.client",
    "Trained": "agent.api",
    "evaluate": "agent.api",
    "load": "agent.api",
    "make": "agent.api",
    "train": "agent.api",
    "ArraySimulator": "envs.arrays",
    "uniform": "envs.arrays",
    "GymSimulator": "envs.gym_tasks",
    "GoalSpace": "envs.task",
    "LimitedTask": "envs.task",
    "Option": "envs.task",
    "OptionSpace": "envs.task",
    "Scene": "envs.task",
    "SeenMap": "envs.gridworld.single",
    "TableTask": "envs.task",
    "Task": "envs.task",
    "UserError": "ground.errors",
}
__all__ = [  # ruff cannot sort what is not a list of words
    "Agent",
    "ArraySimulator",
    "AsyncClient",
    "Client",
    "GoalSpace",
    "GymSimulator",
    "LimitedTask",
    "Option",
    "OptionSpace",
    "Scene",
    "SeenMap",
    "TableTask",
    "Task",
    "Trained",
    "UserError",
    "evaluate",
    "load",
    "make",
    "train",
    "uniform",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'preceptor' has no attribute {name!r}")
    return getattr(import_module(f"preceptor.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return __all__


class _Registering:
    """Registers our environments as soon as Gymnasium can: it looks for none itself, and we do not load it here."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Nothing; called before each import that Gymnasium itself makes."""
        if name.startswith("gymnasium.") and hasattr(sys.modules.get("gymnasium"), "make"):
            sys.meta_path.remove(self)
            import_module("preceptor.envs.catalog").register_all()


if hasattr(sys.modules.get("gymnasium"), "make"):
    import_module("preceptor.envs.catalog").register_all()
else:
    sys.meta_path.insert(0, _Registering())

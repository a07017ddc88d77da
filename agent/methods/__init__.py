"""Methods by name. One method is one file; methods share functions, never base classes."""

from typing import Any, Protocol

import numpy as np

from agent.config import TrainConfig
from agent.core import HighLevel, LowLevel, Observations, Player
from agent.data.store import TrajectoryStore
from agent.methods.dagger import Dagger
from agent.methods.flat import Flat, FlatConfig
from agent.methods.hiro import Hiro, HiroConfig
from agent.methods.hiro_options import OptionHiro, OptionHiroConfig
from agent.methods.ihac import Ihac
from agent.methods.settings import Settings
from agent.teaching import Labeller
from controller.network import ControllerNetwork
from controller.roles import Controller
from envs.task import Task
from ground.errors import UserError


class Method(Protocol):
    """What the training loop asks of a method."""

    @property
    def controller(self) -> ControllerNetwork | None:
        """The network that labels are distilled into; None for a flat student."""
        ...

    @property
    def player(self) -> Player:
        """The student."""
        ...

    @property
    def guide(self) -> tuple[HighLevel, LowLevel] | None:
        """The teacher's levels; None once it is switched off."""
        ...

    @property
    def calibration(self) -> tuple[float, dict[str, float]]:
        """Temperature, and held-out agreement, KL and ECE, of the distilled controller."""
        ...

    def distilling(self, steps: int) -> bool:
        """Whether the teacher still labels at this point of the run."""
        ...

    def plan(self, steps: int) -> tuple[TrajectoryStore, int, float]:
        """Where the next roll-out goes, its vector steps, and the share of it that the teacher steers."""
        ...

    def update(self, observed: Observations, steps: int) -> dict[str, float]:
        """Learn from the roll-out just collected; `observed` is what came after it."""
        ...

    def graduate(self) -> dict[str, float]:
        """The teacher is switched off; called once, when `distilling` turns false."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        ...

    def load_policy(self, state: dict[str, Any]) -> None:
        """Restore what playing needs, and no more."""
        ...


def make_method(
    config: TrainConfig,
    task: Task,
    labeller: Labeller | None,
    settings: Settings,
    seeds: np.random.SeedSequence,
    controller: Controller | None = None,
) -> Method:
    """The method that a configuration names. Raises `UserError` if the task or the teacher does not suit it."""
    student, envs = settings.student, settings.num_envs
    _check_task(config, task, student)
    if isinstance(student, FlatConfig):
        return Flat(task, student, envs, seeds, settings.steps)
    if isinstance(student, HiroConfig):
        return Hiro(task, student, envs, seeds, settings.steps, controller)
    if isinstance(student, OptionHiroConfig):
        return OptionHiro(task, student, envs, seeds, settings.steps, controller)
    if config.method == "dagger":
        if labeller is None:
            raise UserError("Distillation needs a teacher.", "--teacher local")
        rng = np.random.default_rng(seeds)
        return Dagger(task, labeller, student.dagger, student.trunk, student.masked, envs, rng)
    network = controller.network if controller else None
    return Ihac(task, labeller, student, settings.steps, envs, seeds, network)


def _check_task(config: TrainConfig, task: Task, student: Any) -> None:
    """Whether a method can act in a task at all."""
    method = config.method
    if task.continuous and method == "ihac":
        raise UserError(f"ihac clones skills of named actions, and those of {task.name} are vectors.", "--method hiro")
    if not task.continuous and method in ("sac", "td3"):
        raise UserError(f"{method} acts with vectors, and the actions of {task.name} are named.", "--method ihac")
    if task.continuous and method == "dagger":  # whoever has no scripted hands says so here, not in mid-run
        task.skill(np.zeros((1, *task.observation_shape), np.float32), np.zeros(1, np.int64))
    if isinstance(student, HiroConfig) and not task.goal_space.indices:
        raise UserError(f"{task.name} has no space in which a goal could be set.", "--method sac")
    if isinstance(student, OptionHiroConfig) and len(task.options) < 2:
        raise UserError(f"{task.name} names no options to choose among.", "--method sac")

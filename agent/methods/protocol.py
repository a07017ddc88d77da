"""What the runner asks of a method, and what a method says of itself in the catalogue."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np

from preceptor.agent.config import TrainConfig
from preceptor.agent.levels import Player
from preceptor.agent.phases import Phase
from preceptor.agent.resumable import Resumable
from preceptor.agent.runs.metrics import Metrics
from preceptor.agent.runs.run import Run
from preceptor.agent.teaching import Labeller
from preceptor.controller.network import ControllerNetwork
from preceptor.controller.roles import Controller
from preceptor.envs.task import Task


class Method(Resumable):
    """A method: its phases in their order, and the player that they train.

    Attributes:
        phases: Played one after another; none where a checkpoint is only played.
        player: The student, the same from the beginning on: environments that were made first play it.
        stage: What is played while it is learned, if that is not the task itself; then the player is not judged.
        prior_player: What held the student while it learned, by itself; None where nothing did that can play.
        controller: The network that labels are distilled into, or None.
        facts: What making it adds to the run's result.
        played: What of `saved` playing needs.
    """

    phases: tuple[Phase, ...] = ()
    player: Player
    stage: Task | None = None
    prior_player: Player | None = None
    controller: ControllerNetwork | None = None
    facts: Mapping[str, Any] = MappingProxyType({})
    played: ClassVar[tuple[str, ...]] = ()

    def join(self, others: Sequence[Self]) -> None:
        """Learn in one program with others that differ in their seeds alone and stand where this one does."""
        raise NotImplementedError

    def load_policy(self, state: dict[str, Any]) -> None:
        """Restore what playing needs, and no more."""
        self.restore(state, self.played)


@dataclass(frozen=True)
class Parts:
    """What a method is made of.

    Attributes:
        task: What is learned.
        config: The run's settings; `config.settings` are the method's own.
        seeds: Source of the random streams.
        run: The run directory; None where a checkpoint is only played.
        log: The run's metrics, likewise.
        labeller: Labels scenes; None without a teacher, and where a checkpoint is only played.
        controller: A finished controller to start from or to plan with.
    """

    task: Task
    config: TrainConfig
    seeds: np.random.SeedSequence
    run: Run | None = None
    log: Metrics | None = None
    labeller: Labeller | None = None
    controller: Controller | None = None

    @property
    def settings(self) -> Any:
        """The method's own settings."""
        return self.config.settings


@dataclass(frozen=True)
class Given:
    """What decides a preset.

    Attributes:
        task: The task.
        size: tiny, small or paper.
        steps: Environment steps that were asked for, or None.
        taught: Whether there is a teacher.
        flaw: The teacher's flaw, or None.
        said: Settings that were said, by name: some choose between kinds of settings.
    """

    task: Task
    size: str = "small"
    steps: int | None = None
    taught: bool = True
    flaw: str | None = None
    said: dict[str, Any] | None = None

    def word(self, name: str, otherwise: str) -> str:
        """A setting that was said, or its default."""
        return str((self.said or {}).get(name, otherwise))


@dataclass(frozen=True)
class Preset:
    """Environment steps in all, environments side by side, and the method's own settings."""

    steps: int
    num_envs: int
    settings: Any


@dataclass(frozen=True)
class Entry:
    """A method as the catalogue knows it.

    Attributes:
        settings: Kinds of its settings; the first one that a saved dictionary fits.
        preset: Its settings for a task.
        make: Makes it.
        plays: Whether it steps environments while it learns, with settings of its own.
        joins: Whether runs that differ in their seeds alone learn in one program (`Method.join`), with such settings.
        takes_controller: Whether `--controller` means something to it.
        controller_teaches: Whether a controller that is given takes the teacher's place.
        needs_options: Whether there must be something to choose among above actions: two options or more.
    """

    settings: tuple[type, ...]
    preset: Callable[[Given], Preset]
    make: Callable[[Parts], Method]
    plays: Callable[[Any], bool] = lambda settings: True
    joins: Callable[[Any], bool] = lambda settings: False
    takes_controller: bool = False
    controller_teaches: bool = True
    needs_options: bool = False

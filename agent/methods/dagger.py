"""DAgger (Ross, Gordon and Bagnell, 2011): distil a controller and stop; the scripted skills carry its options out.

Where a robot has none, the controller is distilled from states at random, and a hierarchy learns to carry its options
out.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import numpy as np
import tyro

from preceptor.agent.levels import Player, SkillLow
from preceptor.agent.methods.ihac import FEW_SCENES, budget
from preceptor.agent.methods.protocol import Entry, Given, Method, Parts, Preset
from preceptor.agent.networks import NetworkHigh
from preceptor.agent.phases import Distil
from preceptor.agent.resumable import places
from preceptor.agent.teaching import TeacherHigh
from preceptor.controller.distill import DistilConfig
from preceptor.controller.network import ControllerNetwork, TrunkConfig
from preceptor.controller.roles import network_of
from preceptor.envs.task import defines, lacking
from preceptor.ground.device import to_device
from preceptor.ground.errors import UserError


@dataclass(frozen=True)
class DaggerSettings:
    """DAgger: a teacher's labels, distilled into a controller."""

    asks_teacher: ClassVar[bool] = True
    distil: Annotated[DistilConfig, tyro.conf.arg(name="")] = field(default_factory=DistilConfig)
    """Distillation."""
    mask: bool = True
    """Let the controller choose legal options only."""
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    """Size of the controller's network."""


class Dagger(Method):
    """The method: one phase, and the controller over scripted skills as the player.

    Raises:
        UserError: There is no teacher, or the task has no scripted skills and nothing in their place.
    """

    controller: ControllerNetwork

    saved = places("controller", "distil")
    played = ("controller",)

    def __init__(self, parts: Parts) -> None:
        task, settings = parts.task, parts.settings
        if not defines(task, "skill"):
            raise lacking(task, "skill")
        if task.scattered is not task:
            self.stage = task.scattered
            if settings.distil.doubt and parts.labeller is not None:
                raise UserError(
                    f"No label for {task.name} can be doubted, since nothing is played.", "leave out --doubt"
                )
        elif task.continuous:  # a robot without scripted skills says so here, not in mid-run
            task.skill(np.zeros((1, *task.observation_shape), np.float32), np.zeros(1, np.int64))
        self.controller = network = to_device(network_of(task, settings.trunk))
        self.player = Player(NetworkHigh(network, settings.mask), SkillLow(), task.options.timeouts)
        self.distil: Distil | None = None
        if parts.labeller is None and parts.run is not None:
            raise UserError("Distillation needs a teacher.", "--teacher local")
        if parts.labeller is not None:
            expert, rng = (TeacherHigh(parts.labeller), SkillLow()), np.random.default_rng(parts.seeds)
            self.distil = Distil(parts, expert, network, rng)
            self.phases = (self.distil,)


_SCATTERED = 30_000  # states at random, which differ more than those that are played, and cost less


def preset(given: Given) -> Preset:
    """Settings of DAgger for a task: the steps of the run are those of distillation."""
    _, distilled, num_envs = budget(replace(given, steps=None))
    scattered = given.task.scattered is not given.task
    if scattered or given.task.name in FEW_SCENES:
        distilled = _SCATTERED if scattered else FEW_SCENES[given.task.name]
    return Preset(given.steps or distilled, num_envs, DaggerSettings(DistilConfig(doubt=not scattered)))


DAGGER = Entry((DaggerSettings,), preset, Dagger, needs_options=True)

"""Presets: the budget and the hyper-parameters of a method on a task, and what the command line changes of them."""

from agent.config import TrainConfig
from agent.methods.settings import Settings
from agent.presets.grids import grid_settings
from agent.presets.hiro import hiro_settings
from agent.presets.vectors import flat_settings, ppo_settings
from envs.catalog import get_task
from ground.errors import UserError


def settings_of(config: TrainConfig) -> Settings:
    """Settings of a run: the preset of its method and task, with what the command line overrides.

    Raises:
        UserError: The steps do not suffice for one step of every world.
    """
    if config.method in ("sac", "td3"):
        settings = flat_settings(config)
    elif config.method == "hiro":
        settings = hiro_settings(config)
    elif config.method == "ppo" and get_task(config.task).continuous:
        settings = ppo_settings(config)
    else:
        settings = grid_settings(config)
    if settings.steps < settings.num_envs:
        raise UserError(
            f"--steps {settings.steps} is less than one step of {settings.num_envs} worlds side by side.",
            f"--num-envs {settings.steps}, or more steps",
        )
    return settings

"""Presets of methods whose student comes from distillation, PPO, or both: named actions, and planners of vectors."""

from dataclasses import replace

from agent.config import TrainConfig
from agent.methods.dagger import DaggerConfig
from agent.methods.ihac import IhacConfig
from agent.methods.ppo import PPOConfig
from agent.methods.settings import Settings
from envs.catalog import FETCH_TASKS
from envs.mujoco.mazes import SPECS
from envs.rescue.specs import SPECS as RESCUE_SPECS

# Steps in all and, of these, steps of distillation: what each task was seen to need (dev/LOG.md).
_STEPS = {
    "tiny": {"": (8_000, 6_000)},
    "small": {
        "": (120_000, 60_000),
        "SimpleDoorKey": (30_000, 20_000),
        "ColoredDoorKey": (160_000, 100_000),
        "TwoDoor": (300_000, 150_000),
    },
    "paper": {"": (2_000_000, 200_000)},
}
# PPO alone: many worlds and large batches once there are steps enough for many updates all the same.
_PPO_STEPS, _PPO_WORLDS, _AT_LENGTH = 1_000_000, 256, 300_000
# A student of a limited teacher has to find by reward what it was taught wrongly.
_STEPS_IF_LIMITED = (500_000, 60_000)
_NUM_ENVS = {"tiny": 32, "small": 64, "paper": 128}

_FROM_SCRATCH = PPOConfig()
_FROM_SCRATCH_AT_LENGTH = PPOConfig(learning_rate=1e-3, minibatch=2048)
_FINE_TUNING = PPOConfig(learning_rate=1e-4, entropy=0.0)
# After a limited teacher: what it got wrong has to be unlearnt; the wrong key more thoroughly than the wrong step.
_RELEARNING = {
    "lava": (PPOConfig(learning_rate=3e-4, entropy=0.003, minibatch=512), IhacConfig()),
    "colours": (
        PPOConfig(learning_rate=1e-3, entropy=0.003, minibatch=512),
        IhacConfig(prior_weight=0.2, prior_until=0.4),
    ),
}


# Steps of distillation where all that the teacher is asked is a few dozen questions.
_FEW_SCENES = dict.fromkeys((*SPECS, *RESCUE_SPECS, *FETCH_TASKS), 8_000)


def grid_settings(config: TrainConfig) -> Settings:
    """Of methods whose student comes from distillation, PPO, or both."""
    table = _STEPS[config.preset]
    limited = config.limit is not None and config.preset == "small"
    total, distilled = _STEPS_IF_LIMITED if limited else table.get(config.task, table[""])
    if config.task in _FEW_SCENES and config.method == "dagger":
        total = distilled = _FEW_SCENES[config.task]
    if config.method == "dagger":
        total = distilled
    elif config.method == "ppo" and config.preset == "small":
        total = _PPO_STEPS
    if config.steps is not None:
        distilled = round(distilled * min(1.0, config.steps / total))
        total = config.steps
    if config.teacher == "none" or config.method == "ppo":
        distilled = 0
    num_envs = 128 if limited else _NUM_ENVS[config.preset]
    base = IhacConfig()
    if distilled > 0 and config.limit:
        ppo, base = _RELEARNING[config.limit]
    elif distilled > 0:
        ppo = _FINE_TUNING
    elif total >= _AT_LENGTH:
        ppo, num_envs = _FROM_SCRATCH_AT_LENGTH, _PPO_WORLDS
    else:
        ppo = _FROM_SCRATCH
    student = replace(
        base,
        flat=config.method == "ppo" or config.student == "flat",
        masked=config.mask,
        dagger=DaggerConfig(steps=distilled, masked=config.mask, soft=config.soft),
        low=ppo,
        high=ppo,
    )
    return Settings(total, config.num_envs or num_envs, student)

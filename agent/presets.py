"""Presets: the budget and the hyper-parameters of a method on a task, and what the command line changes of them."""

from dataclasses import dataclass, replace

from agent.config import TrainConfig
from agent.methods.dagger import DaggerConfig
from agent.methods.flat import FlatConfig
from agent.methods.hiro import HiroConfig
from agent.methods.ihac import IhacConfig
from agent.methods.ppo import PPOConfig
from agent.methods.sac import SACConfig
from agent.methods.td3 import TD3Config
from envs.errors import UserError
from envs.mujoco.mazes import SPECS


@dataclass(frozen=True)
class Settings:
    """What a run is made of.

    Attributes:
        steps: Environment steps in all, demonstrations included.
        num_envs: Worlds side by side.
        student: Hyper-parameters of the student.
    """

    steps: int
    num_envs: int
    student: IhacConfig | FlatConfig | HiroConfig


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


PRIOR_WEIGHT = 2.0  # lambda of the pull towards the controller's goals, at the start
# Off-policy methods on the mazes: steps in all; for a point mass small networks and few worlds suffice.
_MAZE_STEPS = {
    "": 60_000,
    "PointReach": 10_000,
    "PointPush": 50_000,
    **dict.fromkeys((name for name in SPECS if name.startswith("Ant")), 1_000_000),
}
_MAZE_DISTILLATION = 8_000  # all that a maze asks its teacher is a dozen questions
_OFF_POLICY_WORLDS = 4
HOLDING = 0.1  # probability with which extended exploration starts to hold an action
_POINT = FlatConfig(SACConfig((64, 64), 1e-3, batch=128), updates=0.25)
_POINT_TD3 = FlatConfig(TD3Config((64, 64), 1e-3, 1e-3, batch=128), updates=0.25)
_PAPER_TD3 = TD3Config((300, 300), 1e-4, 1e-3, batch=100, huber=1.0)
_FLAT = {
    ("sac", "small"): _POINT,
    ("td3", "small"): _POINT_TD3,
    ("sac", "paper"): FlatConfig(),
    ("td3", "paper"): FlatConfig(replace(_PAPER_TD3, exploration=1 / 30), reward_scale=0.1),
}
# Gymnasium's own tasks: networks, rates and one update per step as in the papers, whatever the preset.
_GYM_STEPS = {"": 100_000, "Pendulum-v1": 6_000}
_GYM = {"sac": FlatConfig(SACConfig()), "td3": FlatConfig(TD3Config())}
_PENDULUM = {
    "sac": FlatConfig(SACConfig((64, 64), 2e-3, gamma=0.95), warmup=500),
    "td3": FlatConfig(TD3Config((64, 64), 2e-3, 2e-3, gamma=0.95), warmup=500),
}
# An ant: wider layers, slower learning, a longer view; sixteen worlds, since what a step costs is the simulator's.
_ANT = HiroConfig(
    low=SACConfig((128, 128), 5e-4, gamma=0.95, batch=128),
    high=SACConfig((128, 128), 5e-4, gamma=0.97, batch=128),
    high_updates=0.05,
    high_reward=0.0125,
    random_episodes=0.2,
    warmup=5_000,
)
_ANT_WORLDS = 16
_HIRO = {
    "small": HiroConfig(),
    "ant": _ANT,
    # HIRO, appendix C, in units of the box: noise of 1 is 1/30 of the torques' range and 1/10 of the goals'.
    "paper": HiroConfig(
        low=replace(_PAPER_TD3, exploration=1 / 30, target_noise=0.2 / 30, target_clip=0.5 / 30),
        high=replace(_PAPER_TD3, exploration=0.1, target_noise=0.02, target_clip=0.05),
        low_updates=1.0,
        high_reward=0.1,
        random_goals=0.0,
        random_episodes=0.0,
        warmup=2_500,
        low_capacity=200_000,
    ),
}


def settings_of(config: TrainConfig) -> Settings:
    """Settings of a run: the preset of its method and task, with what the command line overrides.

    Raises:
        UserError: The steps do not suffice for one step of every world.
    """
    return _off_policy(config) if config.method in ("sac", "td3", "hiro") else _on_policy(config)


def _off_policy(config: TrainConfig) -> Settings:
    """Of SAC, TD3 and HIRO."""
    preset = "paper" if config.preset == "paper" else "small"
    maze = config.task in SPECS
    table = _MAZE_STEPS if maze else _GYM_STEPS
    steps = config.steps or table.get(config.task, table[""]) // (8 if config.preset == "tiny" else 1)
    ant = maze and preset == "small" and SPECS[config.task].robot.name == "ant"
    worlds = _ANT_WORLDS if ant else _OFF_POLICY_WORLDS if maze and preset == "small" else 1
    num_envs = config.num_envs or worlds
    student: FlatConfig | HiroConfig
    if config.method != "hiro" and not maze:
        student = (_PENDULUM if config.task == "Pendulum-v1" and preset == "small" else _GYM)[config.method]
    elif config.method == "hiro":
        planned = config.high_level == "controller"
        weight = 0.0 if config.prior == "none" else PRIOR_WEIGHT
        student = replace(_HIRO["ant" if ant else preset], relabel=config.relabel, planned=planned, prior_weight=weight)
        student = replace(student, reversed=config.prior == "reversed", frozen=config.low_level is not None)
    else:
        student = _FLAT[config.method, preset]
    if isinstance(student, FlatConfig) and config.exploration == "extended":
        student = replace(student, holding=HOLDING)
    if config.memory:
        student = replace(student, capacity=config.memory)
    return _checked(Settings(steps, num_envs, student))


def _on_policy(config: TrainConfig) -> Settings:
    """Of methods whose student comes from distillation, PPO, or both."""
    table = _STEPS[config.preset]
    limited = config.limit is not None and config.preset == "small"
    total, distilled = _STEPS_IF_LIMITED if limited else table.get(config.task, table[""])
    if config.task in SPECS:
        total = distilled = _MAZE_DISTILLATION
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
    return _checked(Settings(total, config.num_envs or num_envs, student))


def _checked(settings: Settings) -> Settings:
    if settings.steps < settings.num_envs:
        raise UserError(
            f"--steps {settings.steps} is less than one step of {settings.num_envs} worlds side by side.",
            f"--num-envs {settings.steps}, or more steps",
        )
    return settings

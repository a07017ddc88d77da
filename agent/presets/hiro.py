"""Presets of HIRO: who learns at each level, by the command line's words."""

from dataclasses import replace
from typing import TypeVar

from agent.config import TrainConfig
from agent.methods.hiro import HiroConfig
from agent.methods.hiro_options import OptionHiroConfig
from agent.methods.ppo import PPOConfig
from agent.methods.sac import SACConfig
from agent.methods.settings import Settings
from agent.methods.td3 import TD3Config
from agent.presets.vectors import PAPER_TD3, PPO_OF_VECTORS, PPO_WORLDS, is_ant, point_updates, steps_of, worlds_of
from envs.catalog import get_task
from envs.mujoco.tasks import MazeTask
from envs.task import GoalSpace
from ground.errors import UserError, unknown_name

PRIOR_WEIGHT = 2.0  # lambda of the pull towards the controller's goals, at the start

_SMALL = HiroConfig()
# An ant: wider layers, slower learning, a longer view.
_ANT = HiroConfig(
    low=SACConfig((128, 128), 5e-4, gamma=0.95, batch=128),
    high=SACConfig((128, 128), 5e-4, gamma=0.97, batch=128),
    high_updates=0.05,
    high_reward=0.0125,
    random_episodes=0.2,
    warmup=5_000,
)
# HIRO, appendix C, in units of the box: noise of 1 is 1/30 of the torques' range and 1/10 of the goals'.
_PAPER = HiroConfig(
    low=replace(PAPER_TD3, exploration=1 / 30, target_noise=0.2 / 30, target_clip=0.5 / 30),
    high=replace(PAPER_TD3, exploration=0.1, target_noise=0.02, target_clip=0.05),
    low_updates=1.0,
    high_reward=0.1,
    random_goals=0.0,
    random_episodes=0.0,
    warmup=2_500,
    low_capacity=200_000,
)
_PPO_ROLLOUT, _PPO_REWARD = 64, 0.1  # vector steps, since PPO learns from whole roll-outs; factor on metres
_OF_GOALS = ("goal_space", "value_filter", "planned_candidate", "low_level", "low_learner", "high_learner")
_OPTION_STEPS = {"": 300_000, "PointReach": 100_000}
_OPTION_WORLDS = 64


def hiro_settings(config: TrainConfig) -> Settings:
    """Of HIRO over goals, or over named options where the command line or the task's actions say so."""
    if config.high_level == "options" or not get_task(config.task).continuous:
        return _over_options(config)
    small = replace(_SMALL, low_updates=point_updates(config.task))
    student = _PAPER if config.preset == "paper" else _ANT if is_ant(config.task) else small
    student = replace(
        student,
        relabel=config.relabel,
        planned=config.high_level == "controller",
        prior_weight=0.0 if config.prior == "none" else PRIOR_WEIGHT,
        reversed=config.prior == "reversed",
        value_filter=config.value_filter,
        planned_candidate=config.planned_candidate,
        frozen=config.low_level is not None,
        goal_space=_goal_space(config),
    )
    if config.memory:
        student = replace(student, capacity=config.memory)
    student = replace(student, high=_learner(student.high, config.high_learner, exploration=0.2))
    worlds = worlds_of(config)
    if config.low_learner == "ppo":
        low = replace(PPO_OF_VECTORS, gamma=student.low.gamma)
        student = replace(student, low=low, low_reward=_PPO_REWARD, rollout=_PPO_ROLLOUT)
        worlds = config.num_envs or PPO_WORLDS
    else:
        student = replace(student, low=_learner(student.low, config.low_learner, exploration=0.1))
    return Settings(steps_of(config), worlds, student)


def _goal_space(config: TrainConfig) -> GoalSpace | None:
    """The space that is named on the command line."""
    if config.goal_space is None:
        return None
    task = get_task(config.task)
    spaces = task.goal_spaces if isinstance(task, MazeTask) else {}
    if config.goal_space not in spaces:
        raise unknown_name(f"goal space of {task.name}", config.goal_space, spaces, "the same without --goal-space")
    space = spaces[config.goal_space]
    if config.plans and space.names != task.goal_space.names:
        places = ", ".join(task.goal_space.names)
        raise UserError(
            f"A controller's goals are places ({places}), and those of {config.goal_space} are more than that.",
            "--prior none --high-level learned, or leave --goal-space out",
        )
    return space


Learner = TypeVar("Learner", SACConfig | TD3Config, SACConfig | TD3Config | PPOConfig)


def _learner(preset: Learner, kind: str | None, exploration: float) -> Learner | SACConfig | TD3Config:
    """The preset's learner, or one of another kind with its networks, rate, discount and batch."""
    if kind == "td3" and isinstance(preset, SACConfig):
        rates = preset.learning_rate, preset.learning_rate
        return TD3Config(preset.hidden, *rates, gamma=preset.gamma, batch=preset.batch, exploration=exploration)
    if kind == "sac" and isinstance(preset, TD3Config):
        return SACConfig(preset.hidden, preset.critic_learning_rate, gamma=preset.gamma, batch=preset.batch)
    return preset


def _over_options(config: TrainConfig) -> Settings:
    for name in _OF_GOALS:
        if getattr(config, name):
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"{flag} is for goals, and {config.task} is learned over named options here.",
                f"the same without {flag}",
            )
    if config.prior == "reversed":
        raise UserError("Named options have no opposite, as goals do.", "--prior controller")
    continuous = get_task(config.task).continuous
    student = OptionHiroConfig(
        low=PPO_OF_VECTORS if continuous else PPOConfig(learning_rate=1e-3, minibatch=1024),
        relabel=config.relabel,
        planned=config.high_level == "controller",
        prior_weight=0.0 if config.prior == "none" else OptionHiroConfig.prior_weight,
        masked=config.mask,
    )
    if config.memory:
        student = replace(student, capacity=config.memory)
    steps = config.steps or _OPTION_STEPS.get(config.task, _OPTION_STEPS[""])
    return Settings(steps, config.num_envs or (PPO_WORLDS if continuous else _OPTION_WORLDS), student)

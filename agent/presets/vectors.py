"""Presets of flat agents whose actions are vectors: SAC, TD3 and PPO on mazes and on Gymnasium's own tasks."""

from dataclasses import replace

from agent.config import TrainConfig
from agent.methods.dagger import DaggerConfig
from agent.methods.flat import FlatConfig
from agent.methods.ihac import IhacConfig
from agent.methods.ppo import PPOConfig
from agent.methods.sac import SACConfig
from agent.methods.settings import Settings
from agent.methods.td3 import TD3Config
from envs.mujoco.mazes import SPECS

# Steps in all. A point mass needs few worlds and small networks; an ant many steps, and what one costs is the
# simulator's, so that many worlds share the networks' overhead.
_MAZE_STEPS = {"": 60_000, "PointReach": 10_000, "PointPush": 50_000}
_ANT_STEPS = 1_000_000
_GYM_STEPS = {"": 100_000, "Pendulum-v1": 6_000}
_POINT_WORLDS, _ANT_WORLDS = 4, 16
# Gradient steps per environment step of a point mass, flat or as HIRO's low level; with 0.25 HIRO and flat SAC fail on
# PointUMaze with one seed of three (dev/tuning.py).
_POINT_UPDATES = {"": 0.25, "PointUMaze": 0.5}
HOLDING = 0.1  # probability with which extended exploration starts to hold an action

# HIRO, appendix C.
PAPER_TD3 = TD3Config((300, 300), 1e-4, 1e-3, batch=100, huber=1.0)
# Of Gymnasium's own tasks networks, rates and one update per step are as in the papers, whatever the preset.
_GYM = {"sac": FlatConfig(SACConfig()), "td3": FlatConfig(TD3Config())}
_PENDULUM = {
    "sac": FlatConfig(SACConfig((64, 64), 2e-3, gamma=0.95), warmup=500),
    "td3": FlatConfig(TD3Config((64, 64), 2e-3, 2e-3, gamma=0.95), warmup=500),
}
_ANT = {
    "sac": FlatConfig(SACConfig((128, 128), 5e-4, batch=128), updates=0.25, warmup=5_000),
    "td3": FlatConfig(TD3Config((128, 128), 5e-4, 5e-4, batch=128), updates=0.25, warmup=5_000),
}
_PAPER = {"sac": FlatConfig(), "td3": FlatConfig(replace(PAPER_TD3, exploration=1 / 30), reward_scale=0.1)}

# PPO: long roll-outs, many epochs, no entropy bonus; rewards of metres are brought to order one.
PPO_OF_VECTORS = PPOConfig(learning_rate=1e-3, epochs=10, entropy=0.0)
PPO_WORLDS = 16
_PPO_STEPS = {"": 500_000, "PointReach": 60_000, "Pendulum-v1": 100_000}
_PPO_ROLLOUT, _PPO_REWARD = 128, 0.1


def is_ant(task: str) -> bool:
    """Whether an ant moves through the maze of that name."""
    return task in SPECS and SPECS[task].robot.name == "ant"


def steps_of(config: TrainConfig) -> int:
    """Environment steps of SAC, TD3 and HIRO."""
    if config.steps is not None:
        return config.steps
    table = _MAZE_STEPS if config.task in SPECS else _GYM_STEPS
    steps = _ANT_STEPS if is_ant(config.task) else table.get(config.task, table[""])
    return steps // 8 if config.preset == "tiny" else steps


def worlds_of(config: TrainConfig) -> int:
    """Worlds of SAC, TD3 and HIRO: one outside the mazes and in the paper."""
    one = config.preset == "paper" or config.task not in SPECS
    return config.num_envs or (1 if one else _ANT_WORLDS if is_ant(config.task) else _POINT_WORLDS)


def point_updates(task: str) -> float:
    """Gradient steps per environment step in the maze of that name, of a flat agent or of HIRO's low level."""
    return _POINT_UPDATES.get(task, _POINT_UPDATES[""])


def _point(task: str) -> dict[str, FlatConfig]:
    updates = point_updates(task)
    return {
        "sac": FlatConfig(SACConfig((64, 64), 1e-3, batch=128), updates),
        "td3": FlatConfig(TD3Config((64, 64), 1e-3, 1e-3, batch=128), updates),
    }


def flat_settings(config: TrainConfig) -> Settings:
    """Of SAC and TD3."""
    if config.task not in SPECS:
        table = _PENDULUM if config.task == "Pendulum-v1" and config.preset != "paper" else _GYM
    elif config.preset == "paper":
        table = _PAPER
    else:
        table = _ANT if is_ant(config.task) else _point(config.task)
    student = table[config.method]
    if config.exploration == "extended":
        student = replace(student, holding=HOLDING)
    if config.memory:
        student = replace(student, capacity=config.memory)
    return Settings(steps_of(config), worlds_of(config), student)


def ppo_settings(config: TrainConfig) -> Settings:
    """Of PPO."""
    steps = config.steps or _PPO_STEPS.get(config.task, _PPO_STEPS[""])
    low = replace(PPO_OF_VECTORS, gamma=0.95) if config.task == "Pendulum-v1" else PPO_OF_VECTORS
    student = IhacConfig(
        flat=True, rollout=_PPO_ROLLOUT, reward_scale=_PPO_REWARD, dagger=DaggerConfig(steps=0), low=low
    )
    return Settings(steps, config.num_envs or PPO_WORLDS, student)

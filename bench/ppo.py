"""PPO training speed, environment steps per CPU second, against Stable-Baselines3 on the same task and network.

`python -m bench.ppo [--steps N]` trains flat PPO on SimpleDoorKey with ours and with Stable-Baselines3's PPO in one
run, on one core, and prints ratios: at 16 environments, batch 256 and 4 epochs; at our preset's own environments and
batch; and beside them at Stable-Baselines3's defaults. Its environments are MiniGrid's own class of the same task with
the same observation, encoded by the same function as ours, and its policy is the same network: only the code differs.
Seconds are those of the processor, not of the clock, so that a busy machine does not blur the ratios.
"""

import argparse
import json
import os
import time
from importlib.metadata import version
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from preceptor.agent.config import TrainConfig, configure
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.methods.ihac import Ihac, PPOSettings
from preceptor.agent.methods.ppo import PPOConfig
from preceptor.agent.methods.protocol import Parts
from preceptor.controller.encoders import NUM_TOKENS, GridEncoder
from preceptor.controller.network import TokenTrunk, TrunkConfig
from preceptor.envs.catalog import get_task, register_all

TASK = "SimpleDoorKey"


class Tokens(gym.ObservationWrapper):
    """MiniGrid's own environment with our encoder: tokens and presence in one vector of floats."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, gym.spaces.Dict)
        shape = env.observation_space["image"].shape
        assert shape is not None
        self._encoder = GridEncoder(shape)
        size = self._encoder.num_cells + NUM_TOKENS
        self.observation_space = gym.spaces.Box(0, NUM_TOKENS, (size,), np.float32)

    def observation(self, observation: dict[str, Any]) -> np.ndarray:
        """Encode one observation."""
        return np.concatenate([part[0] for part in self._encoder(observation["image"][None]).parts]).astype(np.float32)


class Trunk(BaseFeaturesExtractor):
    """Our trunk, shared between actor and critic as ours is."""

    def __init__(self, space: gym.spaces.Box, encoder: GridEncoder, config: TrunkConfig) -> None:
        super().__init__(space, config.hidden)
        self._cells, self._trunk = encoder.num_cells, TokenTrunk(encoder, 0, config)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Features of encoded observations."""
        return self._trunk(observations[:, : self._cells].long(), observations[:, self._cells :])


def ours(num_envs: int, rollout: int, minibatch: int, epochs: int, steps: int) -> float:
    """Environment steps per CPU second of our flat PPO, after one warm-up rollout."""
    task = get_task(TASK)
    ppo = PPOConfig(minibatch=minibatch, epochs=epochs)
    settings = PPOSettings(ppo, rollout)
    run = TrainConfig(method="ppo", task=task.name, steps=10 * steps, num_envs=num_envs, settings=settings)
    student = Ihac(Parts(task, run, np.random.SeedSequence(0)))
    rng = np.random.default_rng(0)
    env = task.make_vec(num_envs)
    hierarchy = Hierarchy(task, env, student.player, rng=rng)

    def train(until: int) -> None:
        done = 0
        while done < until:
            hierarchy.collect(student.rollouts, rollout)
            done += rollout * num_envs
            student.update(hierarchy.observed, done)

    train(rollout * num_envs)
    start = time.process_time()
    train(steps)
    return -(-steps // (rollout * num_envs)) * rollout * num_envs / (time.process_time() - start)


def theirs(num_envs: int, rollout: int, minibatch: int, epochs: int, steps: int) -> float:
    """Environment steps per CPU second of Stable-Baselines3's PPO, after one warm-up rollout."""
    register_all()
    env = make_vec_env(lambda: Tokens(gym.make(f"Preceptor/{TASK}-v0")), n_envs=num_envs)
    encoder = GridEncoder(get_task(TASK).observation_shape)
    model = sb3.PPO(
        "MlpPolicy",
        env,
        n_steps=rollout,
        batch_size=minibatch,
        n_epochs=epochs,
        ent_coef=0.01,
        learning_rate=5e-4,
        device="cpu",
        policy_kwargs={
            "features_extractor_class": Trunk,
            "features_extractor_kwargs": {"encoder": encoder, "config": TrunkConfig()},
            "net_arch": [],
        },
    )
    model.learn(rollout * num_envs)
    start, before = time.process_time(), model.num_timesteps
    model.learn(steps, reset_num_timesteps=False)
    return (model.num_timesteps - before) / (time.process_time() - start)


def main(steps: int = 40_000) -> dict[str, Any]:
    """Measure everything once and return the figures."""
    torch.set_num_threads(1)
    preset = configure(method="ppo", task=TASK)
    ppo = preset.settings.ppo
    own = (preset.num_envs, preset.settings.rollout, ppo.minibatch, ppo.epochs)
    same = (16, 128, 256, 4)
    figures = {
        "ours, 16 environments, batch 256, 4 epochs": ours(*same, steps),
        "stable-baselines3, 16 environments, batch 256, 4 epochs": theirs(*same, steps),
        "ours, the preset's environments and batch": ours(*own, 4 * steps),
        "stable-baselines3, its defaults (8 environments, 2048 steps, batch 64, 10 epochs)": theirs(
            8, 2048, 64, 10, steps
        ),
    }
    speeds = list(figures.values())
    return {
        "environment steps per CPU second": {name: round(speed) for name, speed in figures.items()},
        "preset (environments, steps, batch, epochs)": own,
        "ratio at 16 environments": round(speeds[0] / speeds[1], 2),
        "ratio at the preset": round(speeds[2] / speeds[1], 2),
        "ratio at the preset, against their defaults": round(speeds[2] / speeds[3], 2),
        "versions": {name: version(name) for name in ("stable-baselines3", "torch", "gymnasium", "minigrid")},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40_000, help="environment steps per measurement")
    print(json.dumps(main(parser.parse_args().steps), indent=1))

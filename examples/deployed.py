"""A trained agent at work, without trainer, teacher or labels: plays the run that is named, on levels it has not seen.

python -m examples.deployed mine
"""

import sys

import numpy as np

import preceptor


def play(run, logdir="log", num_envs=64, steps=500):
    """Success of the episodes that end within some steps of environments side by side, which reset themselves."""
    agent = preceptor.load(run, logdir=logdir, seed=0)
    environments = agent.task.make_vec(num_envs, split="eval")
    observations, _ = environments.reset(seed=0)
    ended, successes = np.zeros(num_envs, np.bool_), []
    for _ in range(steps):
        actions = agent.act(observations, episode_start=ended)
        observations, _, terminated, truncated, info = environments.step(actions)
        ended = terminated | truncated
        successes += info["success"][ended].tolist()
    environments.close()
    return successes


if __name__ == "__main__":
    found = play(*sys.argv[1:3])
    print(f"{sum(found)} of {len(found)} episodes succeeded")

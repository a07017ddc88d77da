"""A task of one's own: fetch the key at one end of a corridor, then leave by the door at the other end.

python main.py train --task examples.corridor:Corridor --teacher scripted --savedir mine --lr 1e-3
"""

import numpy as np

from preceptor import ArraySimulator, Option, OptionSpace, TableTask, uniform

LENGTH = 12  # cells; the key lies in the first one, the door is the last one


def begin(level_seeds):
    """The agent stands anywhere between key and door, without the key."""
    cell = 1 + (uniform(level_seeds, 1)[:, 0] * (LENGTH - 2)).astype(np.int64)
    return {"cell": cell, "has_key": np.zeros(len(cell), np.bool_)}


def step(state, actions):
    """Actions: 0 left, 1 right, 2 take what lies here. Each step costs a little; being out with the key gives 1."""
    state["cell"] = np.clip(state["cell"] + np.array([-1, 1, 0])[actions], 0, LENGTH - 1)
    state["has_key"] = state["has_key"] | ((actions == 2) & (state["cell"] == 0))
    out = state["has_key"] & (state["cell"] == LENGTH - 1)
    return out - 0.01, out, out


def observe(state):
    """Where the agent is, from 0 to 1, and whether it has the key."""
    return np.stack([state["cell"] / (LENGTH - 1), state["has_key"]], axis=1)


class Corridor(TableTask):
    """Two scenes: with and without the key."""

    goal = "Fetch the key, then leave by the door."
    rules = "The key lies at the left end of a corridor, the door is at its right end and opens with the key."
    options = OptionSpace([Option("key", "fetch the key", 20), Option("door", "go to the door", 20)])
    expert_of = np.array([0, 1])  # by code

    def simulator(self, num_envs, render_mode=None):
        """The rules of N environments."""
        return ArraySimulator(self.name, num_envs, begin, step, observe, actions=3, max_steps=60)

    def fact_codes(self, obs):
        """0 without the key, 1 with it."""
        return (obs[:, 1] > 0.5).astype(np.int64)

    def words(self, code):
        """What a language model reads of a code."""
        return (f"key={code}",), f"You {'have' if code else 'do not have'} the key."

    def option_done(self, obs, option):
        """The key is fetched, or the door is reached."""
        return np.where(option == 0, obs[:, 1] > 0.5, obs[:, 0] >= 1)

    def skill(self, obs, option):
        """How a teacher's option is carried out while it is distilled."""
        return np.where(option == 1, 1, np.where(obs[:, 0] > 0, 0, 2))

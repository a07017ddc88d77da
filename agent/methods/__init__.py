"""Methods by name. One method is one file with its settings, its learner and its presets, and one line here."""

import importlib
from functools import cache

from preceptor.agent.methods.protocol import Entry
from preceptor.ground.errors import unknown_name

# name -> (where its entry is, what it is in a few words)
METHODS: dict[str, tuple[str, str]] = {
    "ihac": ("agent.methods.ihac:IHAC", "teacher, controller, PPO at both levels"),
    "dagger": ("agent.methods.dagger:DAGGER", "distil the controller and stop"),
    "hiro": (
        "agent.methods.hiro_options:HIRO",
        "goals or options above, actions below; no teacher of its own",
    ),
    "halo": (
        "agent.halo.ask:HALO",
        "demonstrations, and questions about the option behind a few of their steps",
    ),
    "ppo": ("agent.methods.ihac:PPO_ALONE", "flat, on-policy, no teacher"),
    "sac": ("agent.methods.off_policy:SAC_ALONE", "flat, off-policy, actions that are vectors, no teacher"),
    "td3": ("agent.methods.off_policy:TD3_ALONE", "flat, off-policy, actions that are vectors, no teacher"),
    "bc": ("agent.methods.cloning:BC", "clone demonstrations"),
    "iql": (
        "agent.methods.iql:IQL",
        "offline reinforcement learning over chunks of actions, from demonstrations",
    ),
    "helios": ("agent.methods.helios:HELIOS", "skills from demonstrations, a prior over them, SAC that is held to it"),
    "qc": (
        "agent.methods.qc:QC",
        "chunks of actions, the best of some that demonstrations suggest, offline and then online",
    ),
    "hvd": ("agent.methods.hvd:HVD", "the same, with an advantage for each body group"),
}


@cache
def entry_of(name: str) -> Entry:
    """The catalogue's entry of a method. Raises `UserError` for an unknown name."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS, "python main.py methods")
    module, _, attribute = METHODS[name][0].partition(":")
    entry: Entry = getattr(importlib.import_module(f"preceptor.{module}"), attribute)
    return entry

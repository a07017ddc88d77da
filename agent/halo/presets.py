"""Presets of HALO."""

from typing import Any

from agent.config import TrainConfig
from agent.halo.em import EMConfig
from agent.halo.method import HaloConfig

# A first look, the default, and more restarts and rounds than the default was seen to need.
_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"restarts": 3, "batch": 64, "em": EMConfig(steps=10)},
    "small": {},
    "paper": {"restarts": 10, "batch": 4},
}


def halo_settings(config: TrainConfig) -> HaloConfig:
    """Hyper-parameters of a run."""
    return HaloConfig(policies=config.policies, rule=config.rule, **_SIZES[config.preset])

"""HALO's settings from the fields of a command."""

from dataclasses import replace
from typing import Any

from agent.config import TrainConfig
from agent.halo.config import PRESETS, AnnotatorModel, HaloConfig

_NAMES = ("oracle", "budget", "rule", "demos", "policies", "ahead", "stop_error")
_MODELS: dict[str, AnnotatorModel] = {"auto": "auto", "law": "exact", "learnt": "learned"}


def halo_settings(config: TrainConfig) -> HaloConfig:
    """Settings of a run."""
    said: dict[str, Any] = {name: getattr(config, name) for name in _NAMES}
    return replace(PRESETS[config.preset], annotator_model=_MODELS[config.trust], **said)

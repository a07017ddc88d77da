"""The settings of a run as a nested document: how they are named, compared and cleared of passwords."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from preceptor.ground.errors import UserError

# What may change on resuming, since it does not change what is learned (`steps` may grow, and is checked by itself).
_OF_THE_COMMAND = ("resume", "quiet", "json", "debug", "logdir", "savedir", "eval_episodes")
_OF_THE_MACHINE = ("threads", "device", "graphs")
_OF_THE_TEACHER = ("base_url", "concurrency", "max_llm_calls", "max_llm_tokens", "max_llm_seconds")
_OF_THE_METHOD = ("budget", "stop_error", "annotator_model")
FREE_SETTINGS = {"steps", *_OF_THE_COMMAND, *_OF_THE_MACHINE, "teacher.on_teacher_failure"}
FREE_SETTINGS |= {f"teacher.{name}" for name in _OF_THE_TEACHER} | {f"settings.{name}" for name in _OF_THE_METHOD}


def dotted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in one level: `{"low": {"lr": 0.1}}` as `{"low.lr": 0.1}`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": inner for name, inner in dotted(value).items()}
        else:
            flat[key] = value
    return flat


def check_same(run: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises `UserError` if the run in that directory, with settings `before`, cannot go on with those of `now`."""
    if other := "; ".join(_refusals(before, now)):
        advice = "repeat its own settings, or start a new run under another --savedir"
        raise UserError(f"{run} was started with other settings: {other}.", advice)


def _refusals(before: Mapping[str, Any], now: Mapping[str, Any], group: str = "") -> Iterator[str]:
    """What differs, by dotted name; of what only one of them has, `continued` knows."""
    for key in sorted(before.keys() & now.keys()):
        name, old, new = group + key, before[key], now[key]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _refusals(old, new, f"{name}.")
        elif old != new and name not in FREE_SETTINGS:
            yield f"{name} was {old!r}, now {new!r}"
        elif name == "steps" and new < old:
            yield f"steps was {old}, and may grow but not shrink to {new}"


def without_passwords(value: Any) -> Any:
    """The value with `user:password@` blanked out in every URL."""
    if isinstance(value, str):
        return re.sub(r"://[^/@\s]+@", "://***@", value)
    if isinstance(value, dict):
        return {key: without_passwords(item) for key, item in value.items()}
    return [without_passwords(item) for item in value] if isinstance(value, list | tuple) else value

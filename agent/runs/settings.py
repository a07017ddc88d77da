"""The settings of a run as a nested document: how they are named, compared and cleared of passwords."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

# What may change on resuming, since it does not change what is learnt (`steps` may grow, and is checked by itself).
_OF_THE_COMMAND = ("resume", "quiet", "json", "debug", "logdir", "savedir", "eval_episodes", "threads", "device")
_OF_THE_TEACHER = (
    "base_url",
    "concurrency",
    "max_llm_calls",
    "max_llm_tokens",
    "max_llm_seconds",
    "on_teacher_failure",
)
_OF_THE_METHOD = ("steps", "budget", "stop_error", "trust")
FREE_SETTINGS = {*_OF_THE_COMMAND, *_OF_THE_TEACHER, *_OF_THE_METHOD}
FREE_SETTINGS |= {f"teacher.{name}" for name in _OF_THE_TEACHER} | {f"settings.{name}" for name in _OF_THE_METHOD}


def dotted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in one level: `{"low": {"lr": 0.1}}` as `{"low.lr": 0.1}`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= (
            {f"{key}.{name}": v for name, v in dotted(value).items()} if isinstance(value, Mapping) else {key: value}
        )
    return flat


def refusals(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Why a run with settings `before` cannot go on with those of `now`, by dotted name; a setting that only one of
    them has is one that the other version of the program did not know."""
    found = list(_changes(before, now, ""))
    was, would_be = dotted(before), dotted(now)
    for name in ("steps", "settings.steps"):
        old, new = was.get(name), would_be.get(name)
        if isinstance(old, int) and isinstance(new, int) and new < old:
            found.append(f"{name} was {old}, and may grow but not shrink to {new}")
    return found


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], group: str) -> Iterator[str]:
    for key in sorted(before.keys() & now.keys()):
        name, old, new = group + key, before[key], now[key]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _changes(old, new, f"{name}.")
        elif old != new and name not in FREE_SETTINGS:
            yield f"{name} was {old!r}, now {new!r}"


def without_passwords(value: Any) -> Any:
    """The value with `user:password@` blanked out in every URL."""
    if isinstance(value, str):
        return re.sub(r"://[^/@\s]+@", "://***@", value)
    if isinstance(value, dict):
        return {key: without_passwords(item) for key, item in value.items()}
    return [without_passwords(item) for item in value] if isinstance(value, list | tuple) else value

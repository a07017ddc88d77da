"""Result lines of training and of `eval`, as they are left on the disk and read back."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preceptor.ground.atomic import DamagedError, read_sealed, truncated, write_json

_FORMAT, _SCHEMA = "preceptor-result", 1  # results of version 0.2 say neither, and have no seal


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Leave a result line of training or of `eval`. Raises `UserError` if the disk refuses."""
    write_json(path, {"format": _FORMAT, "schema": _SCHEMA, **result})


def read_result(path: Path) -> dict[str, Any]:
    """What `write_result` left. Raises `DamagedError` unless it holds figures where a report expects some."""
    again = f"rm {path}  # then repeat the command that wrote it, a training with --resume"
    try:
        result = read_sealed(path, schema=_SCHEMA)
        numbers = [result[name] for name in ("steps", "queries", "calls") if result.get(name) is not None]
        numbers += result.get("asking", {}).values()
        for score in result.get("student", {}).values():
            numbers += [score["success"], score["length"], *score.values()]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("a figure is not finite")
    except DamagedError as error:
        raise DamagedError(error.what, again) from error
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise truncated(path, error, again) from error
    return {key: value for key, value in result.items() if key not in ("format", "schema")}

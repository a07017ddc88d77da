"""Errors of code that users bring, environments and tasks, as errors that name the class, the method and the line."""

import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import gymnasium as gym

from preceptor.envs.task import Task
from preceptor.ground.errors import UserError

_OTHERS = re.compile(r"/(site-packages|lib/python3\.\d+|preceptor/(agent|controller|envs|ground|serving|teacher))/")


class UsersFault(UserError):
    """What code of the user's raised."""


@contextmanager
def excused(what: str) -> Iterator[None]:
    """What code of the user's raises, as a `UsersFault` with the line."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise fault(what, error) from error


def fault(what: str, error: BaseException, raised: TracebackType | None = None) -> UsersFault:
    """The error for what `what`, which is the user's, has raised; `raised` is its part of the traceback, else all."""
    if isinstance(error, SyntaxError):
        own, where, line = True, error.filename or "", error.lineno
    else:
        frames = [
            f for f in traceback.extract_tb(raised or error.__traceback__) if not f.filename.startswith("<frozen")
        ]
        users = [f for f in frames if not _OTHERS.search(f.filename)]
        own, where, line = bool(users), (users or frames)[-1].filename, (users or frames)[-1].lineno
    reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".: ")
    place = f"{os.path.relpath(where)}, line {line}"
    look = f"see {place}; --debug shows the traceback" if own else "python main.py tasks  # and name another"
    return UsersFault(f"{what} raises {reason} ({place}).", look)


def blamed(error: BaseException) -> UsersFault | None:
    """The error for what was raised within a task or an environment that is not ours; None if it is from elsewhere."""
    found, raised = None, error.__traceback__
    while raised is not None:
        kind = type(raised.tb_frame.f_locals.get("self"))
        theirs = kind.__module__.partition(".")[0] not in ("preceptor", "gymnasium")
        if theirs and issubclass(kind, Task | gym.Env | gym.vector.VectorEnv):
            found = fault(f"{kind.__name__}.{raised.tb_frame.f_code.co_name}()", error, raised)
        raised = raised.tb_next
    return found

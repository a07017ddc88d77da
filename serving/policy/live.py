"""What the page of the server shows of sessions: made of their last step when it is asked for, and at no other time."""

import base64
import io
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from preceptor.agent.remote.wire import unpacked
from preceptor.serving.policy.agents import Playing
from preceptor.serving.policy.fallback import TAKEN
from preceptor.serving.policy.protocol import Shown, Watched
from preceptor.serving.policy.sessions import Session


def listed(session: Session, now: float) -> dict[str, Any]:
    """A session as the protocol's `Watched` has it, at a second of `time.time`."""
    return Watched(
        name=session.name,
        agent=session.playing.name,
        version=session.playing.version,
        task=session.playing.task.name,
        environments=len(session.seat),
        number=session.number,
        idle=round(max(0.0, now - session.used), 1),
    ).model_dump()


def shown(playing: Playing, step: tuple[NDArray[Any], bytes], environment: int) -> dict[str, Any]:
    """One environment in a step, as the protocol's `Shown` has it, without what a teacher has cost.

    Args:
        playing: Who plays.
        step: The observations [N, ...], and what was replied.
        environment: Which of the N.
    """
    obs, reply = step[0][environment], unpacked(step[1])
    row: dict[str, Any] = {
        name: None if reply[name] is None else reply[name][environment] for name in ("option", "command", "probs")
    }
    chosen = playing.chooses_options
    advice = reply["advice"][environment] if "advice" in reply else ""
    chooser: Literal["controller", "teacher"] = "teacher" if advice == TAKEN else "controller"
    return Shown(
        number=reply["number"],
        goal=playing.task.goal,
        option=row["option"] if chosen else None,
        command=None if row["command"] is None else row["command"].tolist(),
        options=playing.options if chosen else [],
        probs=row["probs"].tolist() if chosen and row["probs"] is not None else None,
        running=playing.options.index(row["option"]) if chosen else None,
        decided=chooser if reply["ended"][environment] and playing.has_high_level else "low level",
        advice="" if advice == TAKEN else advice,
        teacher=None,
        action=np.asarray(reply["action"])[environment].tolist(),
        picture=_png(playing.task.picture(obs)),
    ).model_dump()


def _png(picture: NDArray[np.uint8] | None) -> str | None:
    if picture is None:
        return None
    written = io.BytesIO()  # packed quickly: it stays on this machine, or goes there once
    Image.fromarray(picture).save(written, "PNG", compress_level=1)
    return base64.b64encode(written.getvalue()).decode()

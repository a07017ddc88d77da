"""Who is let in: the server's own key, and keys that are made of it for clients, and expire.

Such a key says until when it is good, and that it was made by who has the server's: `until-SECONDS-SIGNATURE`. So
nothing is kept of it, and all of them end with the key of which they were made.
"""

import hmac
import re
import time
from datetime import UTC, datetime

from preceptor.ground.errors import UserError
from preceptor.serving.config import KEY_VARIABLE

_MADE = re.compile("until-([0-9]{1,11})-([0-9a-f]{64})")


def made(key: str, days: float) -> tuple[str, float]:
    """A key that expires after so many days, made of a server's, and when that is, in seconds of `time.time`.

    Raises:
        UserError: There is no server's key, or it was made of another itself.
    """
    if not key or _MADE.fullmatch(key):
        why = "is itself a key that expires" if key else "is not set"
        again = f"export {KEY_VARIABLE}=...  # as where the server was started, then the same again"
        raise UserError(f"{KEY_VARIABLE} {why}; keys are made of the server's.", again)
    until = int(time.time() + days * 86_400)
    return f"until-{until}-{_signature(key, until)}", until


def refusal(key: str, header: str) -> str:
    """Why a request with this header Authorization is not let in, where a key is asked for; empty if it is."""
    given = header.encode("latin-1")
    if not key or hmac.compare_digest(given, f"Bearer {key}".encode()):
        return ""
    kind, _, said = header.partition(" ")
    found = _MADE.fullmatch(said)
    if kind != "Bearer" or found is None or not hmac.compare_digest(found[2], _signature(key, int(found[1]))):
        return "The key is missing or not the server's any more."
    return "" if time.time() < int(found[1]) else f"The key expired on {day(int(found[1]))}."


def day(seconds: float) -> str:
    """A moment, for people."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _signature(key: str, until: int) -> str:
    return hmac.new(key.encode(), f"until-{until}".encode(), "sha256").hexdigest()

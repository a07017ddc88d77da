"""Names of runs."""

import re

from preceptor.ground.errors import UserError

_LONGEST = 100  # bytes: longer ones leave no room for the names of drafts


def check_name(name: str) -> None:
    """Raise `UserError` unless that is a name for a run, or for one of its seeds: no path, no control characters."""
    alone = re.sub(r"/seed-\d+$", "", name)
    if alone in ("", ".", "..") or not alone.isprintable() or {"/", "\\"} & {*alone} or len(alone.encode()) > _LONGEST:
        what = f"{name[:_LONGEST]!r} is not a name for a run: {_LONGEST} printable characters at most, no / and \\."
        raise UserError(f"--savedir {what}", "--savedir first, and --logdir PATH for another place")

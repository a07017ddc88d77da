"""What the pages of our servers have in common: how they are given out, their style, and parts of their scripts."""

import os
from pathlib import Path

from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

GUARDS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_SHARED = Path(__file__).parent
_KINDS = {".css", ".html", ".js", ".svg"}


class PageFiles(StaticFiles):
    """A page: the files of its folder, and those that all pages share; nothing may be added to them from elsewhere.

    Args:
        folder: Where its `index.html` lies.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder, html=True)
        self.all_directories = [folder, _SHARED]

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """The file of a path; none where it is no part of a page."""
        found, told = super().lookup_path(path)
        return (found, told) if Path(found).is_dir() or Path(found).suffix in _KINDS else ("", None)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file of a path, guarded."""
        reply = await super().get_response(path, scope)
        reply.headers.update(GUARDS | {"Cache-Control": "no-store"})
        return reply

"""Where the program lies, and how it is called: from a clone as `python main.py`, installed as `preceptor`."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the clone, or of the installed package
CLONED = (ROOT / "main.py").exists()
HOME = ROOT if CLONED else Path.cwd()  # where .venv-serving is
INVOCATION = (sys.executable, str(ROOT / "main.py")) if CLONED else (sys.executable, "-m", "preceptor")


def findable(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in whose processes the package is found, that of a clone, too."""
    path = os.pathsep.join(filter(None, [str(ROOT) if CLONED else "", environment.get("PYTHONPATH")]))
    return {**environment, "PYTHONPATH": path} if path else dict(environment)


def as_called(text: str) -> str:
    """A text whose commands begin with `python main.py`, with the name by which the program was called."""
    return text if CLONED and Path(sys.argv[0]).stem != "preceptor" else text.replace("python main.py", "preceptor")

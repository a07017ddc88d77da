"""Where the program lies, and how it is called: from a clone as `python main.py`, installed as `preceptor`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the clone, or of the installed package
CLONED = (ROOT / "main.py").exists()
HOME = ROOT if CLONED else Path.cwd()  # where .venv-serving is
INVOCATION = (sys.executable, str(ROOT / "main.py")) if CLONED else (sys.executable, "-m", "preceptor")


def as_called(text: str) -> str:
    """A text whose commands begin with `python main.py`, with the name by which the program was called."""
    return text if CLONED and Path(sys.argv[0]).stem != "preceptor" else text.replace("python main.py", "preceptor")

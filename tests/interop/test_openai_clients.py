"""The official clients on our server: what they got they hand back, and what they send without effect passes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.local_server import Running

HERE = Path(__file__).parent
INSTALLED = Path(openai.__file__).parents[1]
NEXT, NPM = "3.57.0", "6.30.1"  # of openai on PyPI and on npm

pytestmark = pytest.mark.interop


def said_by(*words: str) -> dict[str, Any]:
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout or "{}"))


@pytest.mark.parametrize("version", [openai.__version__, NEXT])
def test_pythons_client_hands_back_what_it_got(server: Running, version: str, tmp_path: Path) -> None:
    folder = INSTALLED
    if version == NEXT:  # beside the one that the trainer needs; what both need is installed
        folder = tmp_path
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--disable-pip-version-check"]
        said_by(*pip, "--target", str(folder), f"openai=={version}")
    said = said_by(sys.executable, str(HERE / "openai_client.py"), f"{server.url}/v1", str(folder))
    assert said == {"version": version, "forms": 18, "named": "response_format"}


def test_npms_client_hands_back_what_it_got(server: Running, tmp_path: Path) -> None:
    assert shutil.which("npm"), "there is no npm: sudo apt-get install nodejs npm"
    shutil.copy(HERE / "openai_client.mjs", tmp_path)
    said_by("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(tmp_path), f"openai@{NPM}")
    said = said_by("node", str(tmp_path / "openai_client.mjs"), f"{server.url}/v1")
    assert said == {"version": NPM, "forms": 12, "named": "response_format"}

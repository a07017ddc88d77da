"""The wheel in an empty environment, and docs/ten-minutes.md followed word by word in an empty folder.

`REWRITE=1 make test-package` writes into the page what its commands print now, their seconds, and the example's file.
"""

import os
import re
import shlex
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "ten-minutes.md"
BLOCK = re.compile(r"```(console|python) ?(?:title=\"(\S+)\")?\n(.*?)```", re.DOTALL)
FIGURES = re.compile(r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?")
pytestmark = [pytest.mark.package, pytest.mark.timeout(1500)]


class Step(NamedTuple):
    """A command of the page: what it printed, and how long it took."""

    command: str
    printed: str
    seconds: float


class Followed(NamedTuple):
    """What became of the page: where, its commands one after another, and its text as it would be now."""

    folder: Path
    steps: list[Step]
    page: str


def example() -> str:
    """The page's task: that of examples/, as it is called from a folder of one's own."""
    text = (ROOT / "examples" / "corridor.py").read_text()
    return text.replace("python main.py", "preceptor").replace("examples.corridor", "corridor")


def run(command: str, folder: Path, clone: Path) -> Step:
    """A line of a block, with the environment active once it is there."""
    ours = {"PYTHONPATH", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST"}
    env = {name: value for name, value in os.environ.items() if name not in ours}
    env |= {"CLONE": str(clone), "PATH": f"{Path(sys.executable).resolve().parent}:{env['PATH']}"}
    active = "if [ -e venv/bin/activate ]; then . venv/bin/activate; fi\n"
    start = time.perf_counter()
    done = subprocess.run(
        ["bash", "-ec", active + command], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return Step(command, done.stdout.strip("\n"), time.perf_counter() - start)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    """The page, from its first block to its last."""
    folder, clone = tmp_path_factory.mktemp("empty"), tmp_path_factory.mktemp("clone")
    subprocess.run(["git", "checkout-index", "-a", f"--prefix={clone}/"], cwd=ROOT, check=True)
    steps: list[Step] = []

    def follow(block: re.Match[str]) -> str:
        kind, title, text = block.groups()
        if kind == "python":
            text = example() if title == "corridor.py" else text
            (folder / title).write_text(text)
            return f'```python title="{title}"\n{text}```'
        lines = []
        for line in text.splitlines():
            if line.startswith("$ "):
                step = run(line[2:].partition("  # ")[0], folder, clone)
                steps.append(step)
                lines += [f"$ {step.command}  # {step.seconds:.1f} s", *step.printed.splitlines()]
        return "```console\n" + "\n".join(lines) + "\n```"

    page = BLOCK.sub(follow, PAGE.read_text())
    if os.environ.get("REWRITE"):
        PAGE.write_text(page)
    return Followed(folder, steps, page)


def test_the_page_is_what_its_commands_print(followed: Followed) -> None:
    """But for figures, which are of a machine, and the widths of columns, which are of figures."""

    def words(page: str) -> list[str]:
        return FIGURES.sub("#", page.replace("─", "")).split()

    assert words(followed.page) == words(PAGE.read_text())


def test_it_takes_less_than_ten_minutes(followed: Followed) -> None:
    ours = [step.seconds for step in followed.steps if not step.command.startswith("pip install")]  # the network
    assert sum(ours) < 300
    verbs = {step.command.split()[1] for step in followed.steps if step.command.startswith("preceptor ")}
    assert verbs >= {"train", "eval", "tune"}
    (judged,) = (step.printed for step in followed.steps if step.command.startswith("preceptor eval"))
    success = [float(line.split()[2]) for line in judged.splitlines() if line.startswith("student  ")]
    assert min(success) > 0.9, judged
    (played,) = (step.printed for step in followed.steps if step.command == "python play.py")
    assert played.splitlines()[-1].startswith("go to the door: action 1, reward 0.99")


def test_no_file_of_the_repository_is_used(followed: Followed) -> None:
    code = "import preceptor, sys; print(preceptor.__file__, *sys.path, sep='\\n')"
    lines = run(f"python -c {shlex.quote(code)}", followed.folder, ROOT).printed.splitlines()
    inside = followed.folder / "venv"
    assert Path(lines[0]).is_relative_to(inside)
    assert not [line for line in lines if line and Path(line).is_relative_to(ROOT)]
    (wheel,) = (followed.folder / "wheels").iterdir()
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"preceptor"}
    for part in ("tiny_lm/model/model.safetensors", "prompts/chat.txt", "page/index.html", "preceptor/py.typed"):
        assert any(name.endswith(part) for name in names), part


def test_the_import_is_quick_and_loads_no_torch(followed: Followed) -> None:
    code = "from time import time; t = time(); import preceptor, sys; print(time() - t, 'torch' in sys.modules)"
    seconds, torch = run(f"python -c {shlex.quote(code)}", followed.folder, ROOT).printed.split()
    assert float(seconds) < 0.5
    assert torch == "False"

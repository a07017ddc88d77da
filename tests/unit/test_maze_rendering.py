"""Which library draws: decided once, in order, without a display."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from envs.mujoco import rendering
from envs.mujoco.mazes import SPECS
from envs.mujoco.rendering import Painter, choose_backend
from ground.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No choice made yet, on Linux, and MuJoCo not imported."""
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    return monkeypatch


@pytest.mark.parametrize(
    ("egl", "osmesa", "chosen"),
    [(True, True, "egl"), (True, False, "egl"), (False, True, "osmesa"), (False, False, "off")],
)
def test_egl_then_osmesa_then_nothing(fresh: pytest.MonkeyPatch, egl: bool, osmesa: bool, chosen: str) -> None:
    fresh.setattr(rendering, "_egl_works", lambda: egl)
    fresh.setattr(rendering, "_osmesa_is_there", lambda: osmesa)
    backend = choose_backend.__wrapped__()
    assert backend.name == chosen == os.environ["MUJOCO_GL"]
    assert backend.why


def test_the_users_choice_stands(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv("MUJOCO_GL", "OSMesa")
    assert choose_backend.__wrapped__().name == "osmesa"
    assert os.environ["MUJOCO_GL"] == "OSMesa"


def test_elsewhere_mujoco_draws_by_itself(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(sys, "platform", "darwin")
    assert choose_backend.__wrapped__().name == "native"
    assert not os.environ["MUJOCO_GL"]


@pytest.mark.draws
def test_pictures_come_even_if_mujoco_was_imported_first() -> None:
    code = (
        "import mujoco\nfrom envs.mujoco.tasks import make_single_env\n"
        "env = make_single_env('PointUMaze', render_mode='rgb_array')\nenv.reset(seed=0)\nprint(env.render().shape)\n"
    )
    assert "(480, 480, 3)" in run(code, {"MUJOCO_GL": ""})


def run(code: str, variables: dict[str, str]) -> str:
    """What a process of its own prints; the choice is made once in each."""
    told = {"cwd": ROOT, "env": {**os.environ, **variables}}
    return subprocess.run([sys.executable, "-c", code], **told, capture_output=True, text=True, check=True).stdout


def test_without_a_renderer_worlds_step_and_pictures_are_an_error() -> None:
    code = (
        "from envs.mujoco.tasks import make_single_env\nfrom ground.errors import UserError\n"
        "env = make_single_env('PointUMaze', render_mode='rgb_array')\nenv.reset(seed=0)\nenv.step([1.0, 0.0])\n"
        "try:\n    env.render()\nexcept UserError as error:\n    print(error)\n"
    )
    said = run(code, {"MUJOCO_GL": "off"})
    assert "cannot be drawn here: off was chosen because MUJOCO_GL says so" in said
    assert "next: unset MUJOCO_GL" in said


def test_without_any_library_the_packages_are_named() -> None:
    code = (
        "from envs.mujoco import rendering\n"
        "rendering._egl_works = rendering._osmesa_is_there = lambda: False\n"
        "rendering.choose_backend.cache_clear()\nrendering.choose_backend()\n"
        "from agent.runs.doctor import check_rendering, outcome\nprint(outcome(check_rendering))\n"
    )
    code = f"import os\nimport envs.mujoco\nos.environ.pop('MUJOCO_GL', None)\n{code}"
    said = run(code, {"MUJOCO_GL": ""})
    assert "'status': 'warn'" in said
    assert "bytes of mp4; Mazes cannot be drawn here: off was chosen because neither EGL" in said
    assert "'next': 'sudo apt-get install libegl1 libgl1-mesa-dri  # or libosmesa6'" in said


def test_a_painter_that_cannot_start_says_what_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    import mujoco

    from envs.mujoco.model import make_model

    def broken(*_: object) -> None:
        raise RuntimeError("no context")

    monkeypatch.setattr(mujoco, "Renderer", broken)
    with pytest.raises(UserError, match="no context"):
        Painter(make_model(SPECS["PointUMaze"]))

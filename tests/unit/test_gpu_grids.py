"""The grids' rules are written once: CUDA kernels run the engine's own functions, and give what the processor gives."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from numba import cuda

from preceptor.envs.gridworld.gpu import GridsOnGpu
from preceptor.envs.gridworld.levels import SPECS
from preceptor.envs.gridworld.simulator import GridSimulator
from preceptor.ground.errors import UserError

ROOT = Path(__file__).parents[2]
GRIDWORLD = ROOT / "envs/gridworld"
RULES = ("act", "begin", "generate", "look", "show", "fill_runs", "see_anew", "step_some", "drawn_seed", "moved_door")
without_gpu = pytest.mark.skipif(cuda.is_available(), reason="says what happens where there is no GPU")


def in_lock_step(*words: str) -> list[tuple[int, int]]:
    """Of each task, how many levels ended, and in success, in which both gave the same."""
    command = [sys.executable, "-m", "dev.simulated_gpu", "dev.gpu", "--check", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [(int(ended), int(won)) for ended, won in re.findall(r"(\d+) levels ended, (\d+) won", done.stdout)]


def test_kernels_and_the_processor_give_the_same() -> None:
    found = in_lock_step("--num-envs", "100", "--steps", "20")
    assert len(found) == 4
    assert all(ended >= 100 for ended, _ in found)
    assert sum(won for _, won in found) > 0


@pytest.mark.learn
@pytest.mark.timeout(1800)  # the simulator runs kernels as Python
def test_a_thousand_levels_of_each_task_to_their_end() -> None:
    found = in_lock_step("--num-envs", "1000", "--to-the-end")
    assert len(found) == 4
    assert all(ended >= 1000 for ended, _ in found)
    assert all(won >= 900 for _, won in found)


def functions(path: Path) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def calls(function: ast.FunctionDef) -> set[str]:
    return {
        node.func.id for node in ast.walk(function) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def test_each_rule_is_defined_once() -> None:
    files = {path.name: functions(path) for path in (*GRIDWORLD.glob("*.py"), ROOT / "ground/level_seeds.py")}
    for rule in RULES:
        assert sum(rule in defined for defined in files.values()) == 1, rule
    kernels, engine = files["gpu.py"], files["engine.py"]
    assert "step_some" in calls(engine["step"])
    assert "step_some" in calls(kernels["_step"])
    assert {"drawn_seed", "begin", "see_anew"} <= calls(kernels["_begin_next"])
    assert not set(kernels) & set(RULES)
    # Kernels know no cells, actions or wins: what they compare are threads and ends.
    imported = [
        node for node in ast.walk(ast.parse((GRIDWORLD / "gpu.py").read_text())) if isinstance(node, ast.ImportFrom)
    ]
    taken = {alias.name for node in imported for alias in node.names}
    assert not any(name.isupper() and name not in ("GRID",) for name in taken), taken


@without_gpu
def test_without_a_gpu_the_check_fails_and_says_so() -> None:
    done = subprocess.run([sys.executable, "-m", "dev.gpu"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no GPU" in done.stderr


@without_gpu
def test_grids_that_cannot_be_on_a_gpu_are_refused() -> None:
    with pytest.raises(UserError, match="no GPU"):
        GridsOnGpu(GridSimulator(SPECS["SimpleDoorKey"], 2))
    with pytest.raises(UserError, match="no kernels"):
        GridsOnGpu(GridSimulator(SPECS["SimpleDoorKey"], 2, view="partial"))

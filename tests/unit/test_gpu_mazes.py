"""The mazes of MuJoCo Warp are held to MuJoCo's own, on the processor: `make test-warp`, which installs it."""

import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from dev import gpu_mazes
from preceptor.envs.mujoco import gpu
from preceptor.envs.mujoco.gpu import MazesOnGpu
from preceptor.envs.mujoco.mazes import SPECS
from preceptor.envs.mujoco.physics import SimulationError
from preceptor.envs.mujoco.simulator import MazeSimulator
from preceptor.envs.vector import BatchedEnv
from preceptor.ground.errors import UserError

ROOT = Path(__file__).parents[2]
BRIEF = replace(SPECS["AntMaze"], horizon=3)
warp = [pytest.mark.warp, pytest.mark.timeout(900)]  # it compiles kernels, once on a machine
with_warp = pytest.mark.parametrize("name", [pytest.param(name, marks=warp) for name in gpu_mazes.TASKS])
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no GPU")


def play(mazes: MazesOnGpu, steps: int = 1) -> None:
    for _ in range(steps):
        mazes.step(torch.zeros(mazes.num_envs, mazes.spec.robot.num_actions))


@with_warp
def test_positions_are_those_of_mujoco(name: str) -> None:
    found, moved = gpu_mazes.errors(name, 64, "cpu", seed=1)
    assert not gpu_mazes.outside(found)
    assert gpu_mazes.outside(found + 1e-4) == [1, 10, 50]
    assert np.median(found[2]) < np.median(moved[2]), "nearer than MuJoCo is to itself from a start moved by 1e-6"


@with_warp
def test_rules_are_in_lock_step(name: str) -> None:
    ended, won = gpu_mazes.lock_step(name, 64, "cpu")
    assert ended == 128
    assert 0 < won < 128


@pytest.mark.parametrize("name", [pytest.param(name, marks=warp) for name in gpu_mazes.EXPERTS])
def test_experts_push_blocks_and_reach_goals(name: str) -> None:
    assert gpu_mazes.expert_wins(name, 16, "cpu") == (16, 16)


@pytest.mark.warp
def test_levels_of_a_split_and_a_seed() -> None:
    spec = SPECS["PointReach"]
    mazes = MazesOnGpu(spec, 5, "eval", seed=7, device="cpu")
    obs, info = BatchedEnv(MazeSimulator(spec, 5), "eval", seed=7).reset()
    assert mazes.levels.tolist() == info["level_seed"].tolist()
    np.testing.assert_allclose(mazes.obs, obs, rtol=1e-6)


@pytest.mark.warp
@pytest.mark.timeout(900)
def test_the_captured_step_is_the_step_kernel_by_kernel() -> None:
    import warp as wp

    captured, plain = (MazesOnGpu(SPECS["AntMaze"], 8, device="cpu") for _ in range(2))
    assert torch.equal(captured.qpos, plain.qpos)
    start = plain.qpos.clone()
    with wp.ScopedDevice("cpu"):
        for _ in range(4):
            play(captured)
            plain.simulate()
    assert torch.equal(captured.qpos, plain.qpos)
    assert not torch.equal(start, plain.qpos)


@pytest.mark.warp
@pytest.mark.timeout(900)
def test_an_episode_knows_nothing_of_the_one_before() -> None:
    second, fresh = (MazesOnGpu(BRIEF, 8, device="cpu") for _ in range(2))
    play(second, BRIEF.horizon)
    for name in ("qpos", "qvel", "goal"):
        getattr(fresh, name).copy_(getattr(second, name))
    play(second, 2)
    play(fresh, 2)
    assert torch.equal(second.obs, fresh.obs)


@pytest.mark.warp
@pytest.mark.timeout(900)
def test_what_failed_is_said_where_episodes_end() -> None:
    mazes = MazesOnGpu(BRIEF, 3, device="cpu")
    mazes.qpos[1, 0] = torch.nan
    play(mazes, 2)
    with pytest.raises(SimulationError, match=f"environment 1 of AntMaze in level {mazes.levels[1]}:"):
        play(mazes)


@pytest.mark.warp
@pytest.mark.timeout(900)
@pytest.mark.parametrize("room", ["_ROWS", "_CONTACTS"])
def test_contacts_for_which_there_is_no_room_are_an_error(room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, room, 2)
    mazes = MazesOnGpu(replace(BRIEF, horizon=30), 2, device="cpu")
    with pytest.raises(SimulationError, match=r"more than \d+ forces there, more than \d+ contacts"):
        play(mazes, 30)


@pytest.fixture
def no_warp(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    gpu.warp_physics.cache_clear()
    monkeypatch.setitem(sys.modules, "mujoco_warp", None)
    yield
    gpu.warp_physics.cache_clear()


@pytest.mark.usefixtures("no_warp")
def test_without_warp_it_says_what_to_install() -> None:
    with pytest.raises(UserError, match="not installed") as refused:
        MazesOnGpu(BRIEF, 2, device="cpu")
    assert refused.value.next_step == 'pip install "preceptor[warp]"'
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["warp"]
    assert f"mujoco-warp=={gpu._VERSION}" in extra
    assert set(extra) <= set((ROOT / "requirements-warp.txt").read_text().splitlines())


@pytest.mark.usefixtures("no_warp")
def test_another_version_of_warp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mujoco_warp", "warp"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(gpu, "version", lambda name: "4.0.0")
    with pytest.raises(UserError, match=f"version 4.0.0, and {gpu._VERSION} is needed"):
        MazesOnGpu(BRIEF, 2, device="cpu")


@without_gpu
def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no GPU"):
        MazesOnGpu(BRIEF, 2)
    monkeypatch.setattr(sys, "argv", ["dev.gpu_mazes"])
    with pytest.raises(SystemExit, match="no GPU"):
        gpu_mazes.main()

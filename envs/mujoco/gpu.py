"""The mazes on a GPU: MuJoCo Warp steps all environments together, and torch does the rest in the same memory.

Nothing here is a rule: starts, observations and distances are those of `simulator.py`. Physics is another program's, in
float32; `python -m dev.gpu_mazes` says how far it is from MuJoCo's. Training does not use it yet: see docs/speed.md.
"""

import copy
from functools import cache
from importlib.metadata import version
from typing import Any, Final

import mujoco
import numpy as np
import torch
from torch import Tensor

from preceptor.envs.mujoco.mazes import MazeSpec
from preceptor.envs.mujoco.model import make_model
from preceptor.envs.mujoco.physics import SimulationError
from preceptor.envs.mujoco.simulator import UNSTABLE, distance_to, seen, start_of
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import drawn_seeds, split_range

WARP: Final = "preceptor[warp]"
_VERSION: Final = "3.11.0"  # whose private function is patched, and whose contacts were compared with MuJoCo's
# Room for contacts, which all environments share, and for rows of forces, which each has. Random play in MuJoCo had at
# most 28 and 106 in one environment; more is an error.
_CONTACTS, _ROWS = 48, 192


def warp_model(model: mujoco.MjModel) -> mujoco.MjModel:
    """A copy with the flags that MuJoCo Warp takes; contacts and forces are the same."""
    ours, flags = copy.copy(model), mujoco.mjtDisableBit
    unknown = flags.mjDSBL_AUTORESET | flags.mjDSBL_MIDPHASE  # there is neither
    by_name = flags.mjDSBL_NATIVECCD | flags.mjDSBL_MULTICCD  # else boxes may have no margin; MuJoCo's own ask neither
    ours.opt.disableflags = (model.opt.disableflags & ~int(unknown)) | int(by_name)
    return ours


@cache
def warp_physics() -> Any:
    """MuJoCo Warp, whose capsules touch planes as MuJoCo's do.

    MuJoCo lays the frame of such a contact along the capsule, and friction acts along frames. Up to 4.0.0 Warp does so
    only where the capsule is within 60 degrees of the plane, and legs of ants are steeper: after 50 steps positions
    were off by .06 in the median.

    Raises:
        UserError: It is not installed, or in another version.
    """
    try:
        import mujoco_warp
        import warp as wp
    except ImportError as error:
        raise UserError("MuJoCo Warp is not installed.", f'pip install "{WARP}"') from error
    if (found := version("mujoco-warp")) != _VERSION:
        raise UserError(f"MuJoCo Warp is of version {found}, and {_VERSION} is needed.", f'pip install "{WARP}"')
    from mujoco_warp._src import collision_primitive as collisions

    wp.config.log_level = wp.LOG_WARNING
    theirs = collisions.plane_capsule

    @wp.func
    def plane_capsule(normal: wp.vec3, place: wp.vec3, centre: wp.vec3, axis: wp.vec3, radius: float, half: float):  # type: ignore[no-untyped-def]
        distances, places, frame = theirs(normal, place, centre, axis, radius, half)
        along = axis - normal * wp.dot(normal, axis)
        if wp.length(along) > 1.0e-6:  # otherwise it is upright
            along = wp.normalize(along)
            frame = wp.matrix_from_rows(normal, along, wp.cross(normal, along))
        return distances, places, frame

    collisions.plane_capsule = plane_capsule
    return mujoco_warp


class MazesOnGpu:
    """What `BatchedEnv` is over a `MazeSimulator` after `reset`, in its mode SAME_STEP, on a GPU.

    Tensors are the device's, and the next step overwrites them. Nothing crosses the bus, except where episodes end. All
    end in the same step, and the next starts are drawn in main memory, as `BatchedEnv` draws them, and copied.

    Args:
        spec: The maze.
        num_envs: N.
        split, seed: As of `BatchedEnv`.
        device: As torch names it; `cpu` runs the same kernels on the processor, for tests.

    Attributes:
        obs: float32 [N, D], the observations.
        final: Likewise, the last observations of the episodes that ended last.
        reward: float32 [N].
        ends: bool [3, N], terminated, truncated, success.
        levels: int64 [N], the level seeds of the episodes that now run.
        qpos, qvel: float32 [N, Q] and [N, V], MuJoCo's generalised positions and velocities.
        goal: float32 [N, 2 or 3].
        age: Steps since the episodes began.

    Raises:
        UserError: There is no such device, or MuJoCo Warp is not installed.
    """

    def __init__(
        self, spec: MazeSpec, num_envs: int, split: str = "train", seed: int = 0, device: str = "cuda"
    ) -> None:
        self._device = torch.device(device)
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise UserError("There is no GPU that torch can use here.", "nvidia-smi   # what the driver sees")
        self._physics = warp_physics()
        import warp

        self._warp = warp
        self.spec, self.num_envs, self.age = spec, num_envs, 0
        self._host, self._seed, self._episode, self._bounds = make_model(spec), seed, 0, split_range(split)
        with warp.ScopedDevice(str(self._device)):
            plain = warp_model(self._host)
            self._model = self._physics.put_model(plain)
            self._model.opt.warn_overflow = False  # kernels would print it; `step` raises it
            self._data = self._physics.make_data(plain, num_envs, nconmax=_CONTACTS, njmax=_ROWS)
            self.simulate()  # compiles and loads kernels; the first starts undo it
            with warp.ScopedCapture() as captured:
                self.simulate()
            warp.synchronize_device()
        self._graph = captured.graph
        names = ("qpos", "qvel", "ctrl", "qacc_warmstart", "overflow")
        self.qpos, self.qvel, self._control, self._warm, self._overflow = (
            warp.to_torch(getattr(self._data, name)) for name in names
        )
        self._home = torch.tensor([spec.block_home[axis] for axis in spec.block_axes], device=self._device)
        self.goal = torch.zeros(num_envs, len(spec.eval_goals[0]), device=self._device)
        self.obs = torch.zeros(num_envs, len(spec.observation_names), device=self._device)
        self.final, self.reward = torch.zeros_like(self.obs), torch.zeros_like(self.obs[:, 0])
        self.ends = torch.zeros(3, num_envs, dtype=torch.bool, device=self._device)
        self.levels = torch.zeros(num_envs, dtype=torch.int64, device=self._device)
        self._begin()

    def step(self, actions: Tensor) -> None:
        """Step all environments, without waiting; float32 actions [N, A] in [-1, 1], which are not checked.

        Raises:
            SimulationError: Episodes ended, and in one of them the simulator failed.
        """
        torch.mul(actions, self.spec.robot.action_limit, out=self._control)
        on_gpu = self._device.type == "cuda"
        self._warp.capture_launch(self._graph, self._warp.stream_from_torch(self._device) if on_gpu else None)
        self.age += 1
        self._see()
        distance = distance_to(self.goal, self.qpos)
        torch.neg(distance, out=self.reward)
        over = self.age >= self.spec.horizon
        self.ends[1].fill_(over)
        torch.logical_and(self.ends[1], distance < self.spec.radius, out=self.ends[2])
        if over:
            self.final.copy_(self.obs)
            self._check()
            self._begin()

    def simulate(self) -> None:
        """The physics of a step, kernel by kernel: what `step` has captured as a graph."""
        for _ in range(self.spec.robot.frame_skip):
            self._physics.step(self._model, self._data)

    def _begin(self) -> None:
        every = np.arange(self.num_envs)
        levels = drawn_seeds(self._seed, every, np.full(self.num_envs, self._episode), *self._bounds)
        starts = [start_of(self.spec, self._host, level) for level in levels.tolist()]
        for tensor, values in zip((self.qpos, self.qvel, self.goal), zip(*starts, strict=True), strict=True):
            tensor.copy_(torch.as_tensor(np.stack(values)))
        self.levels.copy_(torch.as_tensor(levels))
        self._warm.zero_()
        self._episode, self.age = self._episode + 1, 0
        self._see()

    def _see(self) -> None:
        age = torch.full_like(self.reward, self.age)
        torch.cat(seen(self.spec, self._home, self.qpos, self.qvel, age, self.goal), dim=1, out=self.obs)

    def _check(self) -> None:
        """Raise `SimulationError` if an environment has failed since its episode began."""
        sound = (self.qpos.abs() < UNSTABLE).all(1) & (self.qvel.abs() < UNSTABLE).all(1) & (self._overflow == 0)
        if not sound.all():
            n = int(sound.logical_not().nonzero()[0])
            raise SimulationError(
                f"The simulator failed in environment {n} of {self.spec.name} in level {int(self.levels[n])}: "
                f"more than {_ROWS} forces there, more than {_CONTACTS * self.num_envs} contacts in all environments "
                "together, or numbers that are not finite.",
                "use MazeSimulator, MuJoCo itself on the processor",
            )

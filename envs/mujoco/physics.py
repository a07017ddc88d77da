"""What simulators on top of MuJoCo have in common: one model, N states of it, and what fails."""

import mujoco
import numpy as np

from preceptor.envs.vector import Simulator, State
from preceptor.ground.errors import UserError
from preceptor.ground.threads import side_by_side

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION  # all that the next step depends on, the solver's warm start included
_FEWEST = 4  # environments of a thread: enough of ants; points, quickly stepped, gain nothing

_log = mujoco.MjLogConfig.get()
_log.logto_file = False  # else each failure leaves a MUJOCO_LOG.TXT wherever the process was started
_log.set()


class SimulationError(UserError):
    """The simulator gave numbers that mean nothing, or warned."""


class PhysicsSimulator(Simulator):
    """N environments which share a MuJoCo model.

    Attributes:
        model: MuJoCo's model.
        data: MuJoCo's state of each environment.
        age: int64 [N], steps since each episode began.

    Args:
        model: MuJoCo's model.
        num_envs: N.
    """

    forgiving = True

    def __init__(self, model: mujoco.MjModel, num_envs: int) -> None:
        self.model, self.num_envs = model, num_envs
        self.data = [mujoco.MjData(model) for _ in range(num_envs)]
        self.level_seed = np.full(num_envs, -1, dtype=np.int64)
        self.age = np.zeros(num_envs, dtype=np.int64)
        # MuJoCo owns its arrays; these are views of them, made once because making one costs as much as a small step.
        self._control = [data.ctrl for data in self.data]
        self._warnings = [data.warning.number for data in self.data]
        self._qpos_of, self._qvel_of = [data.qpos for data in self.data], [data.qvel for data in self.data]
        self._qpos, self._qvel = np.zeros((num_envs, model.nq)), np.zeros((num_envs, model.nv))

    def _simulate(self, steps: int) -> None:
        """So many of MuJoCo's steps in every environment, at its controls. Raises `SimulationError`."""
        side_by_side(lambda data: mujoco.mj_step(self.model, data, steps), self.data, _FEWEST)
        self.age += 1
        self._fetch()

    def get_state(self) -> State:
        """Everything that the future depends on, as arrays whose first dimension is N."""
        physics = np.zeros((self.num_envs, mujoco.mj_stateSize(self.model, _STATE)))
        for data, row in zip(self.data, physics, strict=True):
            mujoco.mj_getState(self.model, data, row, _STATE)
        return {"physics": physics} | super().get_state()

    def set_state(self, state: State) -> None:
        """Restore what `get_state` returned."""
        for data, row in zip(self.data, state["physics"], strict=True):
            mujoco.mj_resetData(self.model, data)
            mujoco.mj_setState(self.model, data, np.asarray(row, dtype=np.float64), _STATE)
        super().set_state(state)
        self._fetch()

    def _fetch(self) -> None:
        """Gather the numbers of all environments. Raises `SimulationError` for the first that failed."""
        np.concatenate(self._qpos_of, out=self._qpos.reshape(-1))
        np.concatenate(self._qvel_of, out=self._qvel.reshape(-1))
        if np.isfinite(self._qpos).all() and np.isfinite(self._qvel).all() and not np.concatenate(self._warnings).any():
            return
        warned = np.array(self._warnings)
        bad = ~np.isfinite(self._qpos).all(axis=1) | ~np.isfinite(self._qvel).all(axis=1) | warned.any(axis=1)
        n = int(np.flatnonzero(bad)[0])
        said = [mujoco.mju_warningText(int(w), 0) for w in np.flatnonzero(warned[n])]
        why = "; ".join(text.split(".")[0] for text in said) or "its state is not finite"
        raise SimulationError(
            f"The simulator failed in environment {n} of {self.name} at step {self.age[n]} of level "
            f"{self.level_seed[n]}: {why}.",
            "repeat the command with --resume  # continues from the last checkpoint",
        )

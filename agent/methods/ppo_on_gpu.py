"""PPO with nothing crossing the bus: grids, play, advantages and gradient steps on the GPU, as two CUDA graphs.

Rules, encoder and advantages are the processor's, from the same source, and the loss is `PPO.loss`; what is here is
their order, in arrays that stay where they are. Random numbers are the GPU's, so a run is another one than elsewhere.
"""

from collections.abc import Mapping
from typing import Any

import torch
from numba import cuda
from torch import Tensor

from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.losses import put_advantages
from preceptor.agent.methods.ppo import PPO, PolicyBatch, means
from preceptor.agent.phases import Advance, Phase
from preceptor.agent.resumable import Resumable, places
from preceptor.controller.encoders import NUM_TOKENS, GridEncoder, encode_one, encoder_of
from preceptor.envs.gridworld.gpu import GridsOnGpu, blocks_and_threads
from preceptor.envs.gridworld.tasks import GridTask
from preceptor.envs.task import Task
from preceptor.ground.device import chance, device
from preceptor.ground.errors import UserError
from preceptor.ground.repeated import Repeated


@cuda.jit
def _encode(obs, which, bins, side, tokens, present):  # type: ignore[no-untyped-def]
    n = cuda.grid(1)
    if n < obs.shape[0] and which[n]:
        encode_one(n, obs, bins, side, tokens, present)


@cuda.jit
def _settle(  # type: ignore[no-untyped-def]
    scaled, everywhere, value, bootstrap, terminated, truncated, gamma, lam, advantage, reward, success, running, totals
):
    n = cuda.grid(1)
    if n >= reward.shape[1]:
        return
    put_advantages(n, scaled, everywhere, value, bootstrap, terminated, truncated, gamma, lam, advantage)
    for t in range(reward.shape[0]):
        running[0, n] += reward[t, n]
        running[1, n] += 1
        if terminated[t, n] or truncated[t, n]:
            totals[0, n] += 1
            totals[1, n] += success[t, n]
            totals[2, n] += running[0, n]
            totals[3, n] += running[1, n]
            running[0, n] = 0
            running[1, n] = 0


class OnGpu(Phase, Resumable):
    """A flat student plays N grids by itself, T steps in each a round, and learns from them.

    Args:
        task: Grids whose maps are seen.
        learner: Of a network with one option.
        num_envs: N.
        rollout: T.
        reward_scale: Factor on rewards.
        seed: Of the levels.

    Attributes:
        batch: The samples of the last round [T N], time-major.
        ends: bool [3, T, N], terminated, truncated, success.

    Raises:
        UserError: Networks are not on a GPU, or the task is of another kind.
    """

    saved = places("grids", running="_running", chance="_chance")

    def __init__(self, task: Task, learner: PPO, num_envs: int, rollout: int, reward_scale: float, seed: int) -> None:
        encoder = encoder_of(task)
        if not isinstance(task, GridTask) or type(encoder) is not GridEncoder or encoder.by_role:
            raise UserError(f"--on-gpu does not know what is seen of {task.name}.", "leave out --on-gpu")
        longest = task.level_spec.max_steps
        if rollout > longest:  # so that one episode at most is cut off within it
            raise UserError(f"--on-gpu takes roll-outs of {longest} steps at most here.", f"--rollout {longest}")
        self.grids = GridsOnGpu(task.simulator(num_envs), seed=seed)
        self._reward_now, self._ends_now = (torch.as_tensor(part) for part in (self.grids.reward, self.grids.ends))
        if self._reward_now.device.type != device().type:
            raise UserError("--on-gpu plays where the networks are, which is in main memory.", "--device cuda")
        self._learner, self._scale, self._chance = learner, reward_scale, chance()
        self._side, self._bins, self._launch = encoder.side, cuda.to_device(encoder.bins), blocks_and_threads(num_envs)

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device())

        # The last two rows of what is seen: after the roll-out, and at the end of the episode that was cut off in it.
        self._tokens = zeros(rollout + 2, num_envs, encoder.num_cells, dtype=torch.uint8)
        self._present = zeros(rollout + 2, num_envs, NUM_TOKENS)
        self._action, self._option = zeros(2, rollout, num_envs, dtype=torch.int64)
        self._log_prob, self._reward, self._value, self._advantage, self._returns = zeros(5, rollout, num_envs)
        self.ends = zeros(3, rollout, num_envs, dtype=torch.bool)
        self._always = torch.ones_like(self.ends[0])
        self._running, self._totals = zeros(2, num_envs), zeros(4, num_envs)
        inputs = self._tokens[:rollout], self._present[:rollout], self._option
        columns = self._action, self._log_prob, self._advantage, self._returns
        self.batch = PolicyBatch(tuple(each.flatten(0, 1) for each in inputs), *(each.flatten() for each in columns))
        self._play, self._learn = Repeated(self._play_once), Repeated(self._learn_once)

    def over(self, steps: int, total: int) -> bool:
        """Whether not one more round is left."""
        return steps + len(self.batch) > total

    def advance(self, hierarchy: Hierarchy | None, steps: int, total: int) -> Advance:
        """One round."""
        steps += len(self.batch)
        explained = self._play()
        rates = self._learner.scale_rates(1 - steps / total)
        terms: Mapping[str, Tensor | float] = {}
        for _ in range(self._learner.config.epochs):
            terms = self._learn()
        told = {**terms, "explained_variance": explained, **rates}
        info = {f"low/{name}": float(term) for name, term in told.items()}
        episodes, *sums = self._totals.sum(1).tolist()
        self._totals.zero_()
        means_of = zip(("success", "return", "length"), sums, strict=True)
        return Advance(steps, info | {f"rollout/{name}": of_all / episodes for name, of_all in means_of if episodes})

    @torch.no_grad()
    def _play_once(self) -> Tensor:
        """Fill in a roll-out; the share of its returns' variance that values explain."""
        network, config = self._learner.network, self._learner.config
        stream, rollout = _stream(), len(self._reward)
        for t in range(rollout):
            self._see(self.grids.maps, self._always[0], t)
            outputs, self._value[t] = network(self._tokens[t], self._present[t], self._option[t])
            (probs,) = network.head.parameters(outputs)
            self._action[t] = (probs / torch.empty_like(probs).exponential_()).argmax(1)  # one of each distribution
            self._log_prob[t] = network.head.log_prob(outputs, self._action[t])
            self.grids.step(_for_numba(self._action[t]), stream)
            self._reward[t], self.ends[:, t] = self._reward_now, self._ends_now
            self._see(self.grids.final, self._ends_now[1], rollout + 1)
        self._see(self.grids.maps, self._always[0], rollout)
        seen = zip(self._tokens[rollout:], self._present[rollout:], strict=True)
        last, cut = (network(*parts, self._option[0])[1] for parts in seen)
        bootstrap = self.ends[1] * cut
        bootstrap[-1] = torch.where(self.ends[:2, -1].any(0), bootstrap[-1], last)
        terminated, truncated, success = self.ends
        played = self._reward * self._scale, self._always, self._value, bootstrap, terminated, truncated
        counted = self._advantage, self._reward, success, self._running, self._totals
        arrays = [_for_numba(each) for each in (*played, *counted)]
        _settle[*self._launch, stream](*arrays[:6], config.gamma, config.lam, *arrays[6:])
        torch.add(self._advantage, self._value, out=self._returns)
        left, variance = self._advantage.var(), self._returns.var()
        explained = torch.where(variance > 0, 1 - left / variance, 0.0)
        self._advantage.sub_(self._advantage.mean()).div_(self._advantage.std(correction=0) + 1e-8)
        return explained

    def _learn_once(self) -> dict[str, Tensor | float]:
        """An epoch; the means of its terms."""
        order = torch.rand(len(self.batch), device=device()).argsort()
        return means(self._learner.pass_over(self.batch, order))

    def _see(self, maps: Any, which: Tensor, row: int) -> None:
        """Encode some maps into a row of what was seen."""
        into = _for_numba(self._tokens[row]), _for_numba(self._present[row])
        _encode[*self._launch, _stream()](maps, _for_numba(which), self._bins, self._side, *into)


def _stream() -> Any:
    """The stream on which torch works now, for kernels of Numba."""
    return cuda.external_stream(torch.cuda.current_stream().cuda_stream) if device().type == "cuda" else 0


def _for_numba(tensor: Tensor) -> Any:
    """A tensor as an array for them, which shares its memory."""
    return cuda.as_cuda_array(tensor) if tensor.is_cuda else tensor.numpy()

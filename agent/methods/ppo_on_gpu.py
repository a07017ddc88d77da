"""PPO with nothing crossing the bus: grids, play, advantages and gradient steps on the GPU, as three CUDA graphs.

Rules, encoder and advantages are the processor's, from the same source, and the loss is PPO's; what is here is
their order, in arrays that stay where they are. Several seeds are one program: their grids and weights lie side by
side. Random numbers are functions of a run's seed and of how many it has drawn, so whom it was trained with makes no
difference but for rounding; it is another run than on the processor.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numba import cuda
from torch import Tensor

from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.losses import put_advantages
from preceptor.agent.methods.ppo import PPO, PolicyBatch
from preceptor.agent.methods.stacked_ppo import StackedPPO
from preceptor.agent.phases import Advance, Phase
from preceptor.controller.encoders import NUM_TOKENS, GridEncoder, encode_one, encoder_of
from preceptor.envs.gridworld.gpu import GridsOnGpu, blocks_and_threads, check_gpu
from preceptor.envs.gridworld.tasks import GridTask
from preceptor.envs.task import Task
from preceptor.ground.device import device
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import drawn_number, random_bits
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


@cuda.jit
def _draw(seeds, count, numbers):  # type: ignore[no-untyped-def]
    n, each = cuda.grid(1), numbers.shape[1]
    if n < numbers.size:
        numbers[n // each, n % each] = drawn_number(seeds[n // each], count[0], n % each)


class OnGpu(Phase):
    """A flat student plays N grids by itself, T steps in each a round, and learns from them, perhaps beside others.

    Args:
        task: Grids whose maps are seen.
        learner: Of a network with one option.
        num_envs: N.
        rollout: T.
        reward_scale: Factor on rewards.
        seed: Of the levels, and of what is drawn.

    Raises:
        UserError: Networks are not on a GPU, or the task is of another kind.
    """

    def __init__(self, task: Task, learner: PPO, num_envs: int, rollout: int, reward_scale: float, seed: int) -> None:
        encoder = encoder_of(task)
        if not isinstance(task, GridTask) or type(encoder) is not GridEncoder or encoder.by_role:
            raise UserError(f"--on-gpu does not know what is seen of {task.name}.", "leave out --on-gpu")
        longest = task.level_spec.max_steps
        if rollout > longest:  # so that one episode at most is cut off within it
            raise UserError(f"--on-gpu takes roll-outs of {longest} steps at most here.", f"--rollout {longest}")
        check_gpu()
        if torch.as_tensor(cuda.to_device(np.zeros(1))).device.type != device().type:  # Numba's simulator has others
            raise UserError("--on-gpu plays where the networks are, which is in main memory.", "--device cuda")
        self.task, self.encoder, self.learner, self.seed = task, encoder, learner, seed
        self.num_envs, self.rollout, self.reward_scale, self.rounds = num_envs, rollout, reward_scale, 0
        self.loaded: dict[str, Any] | None = None
        self._program: _Program | None = None
        self._place = 0

    @staticmethod
    def join(phases: "Sequence[OnGpu]") -> None:
        """Make one program of phases that differ in their seeds alone and have come to the same round."""
        program = _Program(phases)
        for place, phase in enumerate(phases):
            phase._program, phase._place = program, place

    def over(self, steps: int, total: int) -> bool:
        """Whether not one more round is left."""
        return steps + self.num_envs * self.rollout > total

    def advance(self, hierarchy: Hierarchy | None, steps: int, total: int) -> Advance:
        """One round, which is played for all when the first of them asks."""
        steps += self.num_envs * self.rollout
        if self._program is None:
            self.join([self])
        assert self._program is not None
        if self.rounds == self._program.rounds:
            self._program.advance(1 - steps / total)
        self.rounds += 1
        self.round_seconds = self._program.seconds / self._program.runs
        return Advance(steps, self._program.told[self._place])

    def played(self) -> tuple[PolicyBatch, Tensor]:
        """Its samples of the last round [T N], time-major, and bool [3, T, N], terminated, truncated, success."""
        assert self._program is not None
        return self._program.played(self._place)

    def state_dict(self) -> dict[str, Any] | None:
        """Everything that an exact resume needs besides the learner."""
        return self.loaded if self._program is None else self._program.state_of(self._place) | {"rounds": self.rounds}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restore what `state_dict` gave, before it is first played."""
        if state is not None:
            self.loaded, self.rounds = state, state["rounds"]


class _Program:
    """What S runs play and learn, a row of an array [S, ...] for each.

    Attributes:
        runs: S.
        rounds: How many were played.
        told: What the last one came to, for each run.
        seconds: What it took.
    """

    def __init__(self, runs: Sequence[OnGpu]) -> None:
        first, self.runs = runs[0], len(runs)
        self.rounds, self.told, self.seconds = first.rounds, list[dict[str, float]](), 0.0
        assert all(run.rounds == self.rounds for run in runs)
        rollout, count = first.rollout, first.num_envs * self.runs
        self._scale, self._config = first.reward_scale, first.learner.config
        self._policy = StackedPPO([run.learner for run in runs])
        seeds = [run.seed for run in runs]
        assert isinstance(first.task, GridTask)
        assert isinstance(first.encoder, GridEncoder)
        self._grids, encoder = GridsOnGpu(first.task.simulator(count), seeds=seeds), first.encoder
        self._reward_now, self._ends_now = (torch.as_tensor(part) for part in (self._grids.reward, self._grids.ends))
        self._side, self._bins, self._launch = encoder.side, cuda.to_device(encoder.bins), blocks_and_threads(count)
        # Levels are drawn from the seeds themselves.
        self._seeds = cuda.to_device(random_bits(np.array(seeds), 1)[:, 0].view(np.int64))

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device())

        # The last two rows of what is seen: after the roll-out, and at the end of the episode that was cut off in it.
        self._tokens = zeros(rollout + 2, count, encoder.num_cells, dtype=torch.uint8)
        self._present = zeros(rollout + 2, count, NUM_TOKENS)
        self._action = zeros(rollout, count, dtype=torch.int64)
        self._log_prob, self._reward, self._value, self._advantage, self._returns = zeros(5, rollout, count)
        self._ends = zeros(3, rollout, count, dtype=torch.bool)
        self._always = torch.ones_like(self._ends[0])
        self._running, self._totals = zeros(2, count), zeros(4, count)
        inputs = self._tokens[:rollout].flatten(0, 1), self._present[:rollout].flatten(0, 1)
        columns = self._action, self._log_prob, self._advantage, self._returns
        self._batch = PolicyBatch(inputs, *(each.flatten() for each in columns))
        # Numbers [S, T N] of each run's samples, time-major.
        self._samples = torch.arange(rollout * count, device=device()).view(rollout, self.runs, -1).transpose(0, 1)
        self._samples = self._samples.flatten(1)
        self._chances = zeros(self.runs, first.num_envs, dtype=torch.int64)
        self._keys = torch.zeros_like(self._samples)
        self._drawn = zeros(1, dtype=torch.int64)  # how often numbers were drawn
        self._drawn += self.rounds * (rollout + self._config.epochs)
        states = [state for run in runs if (state := run.state_dict())]
        if states:
            self._restore(states)
        self._play, self._learn = Repeated(self._play_once), Repeated(self._learn_once)
        self._hand_back = Repeated(self._policy.hand_back)

    def advance(self, remaining: float) -> None:
        """One round, with this share of the run left after it."""
        started = time.perf_counter()
        terms = {"explained_variance": self._play()}
        rates = self._policy.scale_rates(remaining)
        for _ in range(self._config.epochs):
            terms |= self._learn()
        self._hand_back()
        episodes, *sums = self._totals.view(4, self.runs, -1).sum(2)
        means = {f"rollout/{name}": each for name, each in zip(("success", "return", "length"), sums, strict=True)}
        named = {f"low/{name}": each for name, each in terms.items()} | {k: v / episodes for k, v in means.items()}
        numbers = torch.stack(list(named.values())).T.tolist()
        self._totals.zero_()
        told = ({k: v for k, v in zip(named, row, strict=True) if k not in means or v == v} for row in numbers)
        self.told = [each | {f"low/{name}": rate for name, rate in rates.items()} for each in told]
        self.rounds, self.seconds = self.rounds + 1, time.perf_counter() - started

    @torch.no_grad()
    def _play_once(self) -> Tensor:
        """Fill in a roll-out; the share [S] of its returns' variance that values explain."""
        stream, rollout, head = _stream(), len(self._reward), self._policy.head
        for t in range(rollout):
            self._see(self._grids.maps, self._always[0], t)
            outputs, self._value[t] = self._policy(self._tokens[t], self._present[t])
            (probs,) = head.parameters(outputs)
            self._draw(self._chances)
            below = probs.cumsum(1) <= (self._chances.view(-1, 1) >> 29) * 2**-24  # which float32 has exactly
            self._action[t] = below.sum(1).clamp(max=probs.shape[1] - 1)
            self._log_prob[t] = head.log_prob(outputs, self._action[t])
            self._grids.step(_for_numba(self._action[t]), stream)
            self._reward[t], self._ends[:, t] = self._reward_now, self._ends_now
            self._see(self._grids.final, self._ends_now[1], rollout + 1)
        self._see(self._grids.maps, self._always[0], rollout)
        seen = zip(self._tokens[rollout:], self._present[rollout:], strict=True)
        last, cut = (self._policy(*parts)[1] for parts in seen)
        bootstrap = self._ends[1] * cut
        bootstrap[-1] = torch.where(self._ends[:2, -1].any(0), bootstrap[-1], last)
        terminated, truncated, success = self._ends
        played = self._reward * self._scale, self._always, self._value, bootstrap, terminated, truncated
        counted = self._advantage, self._reward, success, self._running, self._totals
        arrays = [_for_numba(each) for each in (*played, *counted)]
        _settle[*self._launch, stream](*arrays[:6], self._config.gamma, self._config.lam, *arrays[6:])
        torch.add(self._advantage, self._value, out=self._returns)
        advantage, returns = (each.view(rollout, self.runs, -1) for each in (self._advantage, self._returns))
        left, variance = (each.var((0, 2)) for each in (advantage, returns))
        explained = torch.where(variance > 0, 1 - left / variance, 0.0)
        deviation, mean = torch.std_mean(advantage, (0, 2), correction=0, keepdim=True)
        advantage.sub_(mean).div_(deviation + 1e-8)
        return explained

    def _learn_once(self) -> dict[str, Tensor]:
        """An epoch; the means [S] of its terms."""
        self._draw(self._keys)
        return self._policy.pass_over(self._batch, self._samples.gather(1, self._keys.argsort(1)))

    def _draw(self, numbers: Tensor) -> None:
        """Fill in random numbers [S, M] below 2**53, each run's own."""
        launch = blocks_and_threads(numbers.numel())
        _draw[*launch, _stream()](self._seeds, _for_numba(self._drawn), _for_numba(numbers))
        self._drawn += 1

    def _see(self, maps: Any, which: Tensor, row: int) -> None:
        """Encode some maps into a row of what was seen."""
        into = _for_numba(self._tokens[row]), _for_numba(self._present[row])
        _encode[*self._launch, _stream()](maps, _for_numba(which), self._bins, self._side, *into)

    def played(self, place: int) -> tuple[PolicyBatch, Tensor]:
        """See `OnGpu.played`."""
        ends = self._ends.view(3, len(self._reward), self.runs, -1)
        batch = self._batch.select(self._samples[place])
        return replace(batch, inputs=(*batch.inputs, torch.zeros_like(batch.action))), ends[:, :, place]

    def state_of(self, place: int) -> dict[str, Any]:
        """What one run is to go on with."""
        grids = {name: np.split(array, self.runs)[place] for name, array in self._grids.get_state().items()}
        return {"grids": grids, "running": self._running.chunk(self.runs, 1)[place].clone()}

    def _restore(self, states: Sequence[dict[str, Any]]) -> None:
        """Restore what `state_of` gave of each run."""
        names = states[0]["grids"]
        self._grids.set_state({name: np.concatenate([each["grids"][name] for each in states]) for name in names})
        self._running.copy_(torch.cat([each["running"] for each in states], 1))


def _stream() -> Any:
    """The stream on which torch works now, for kernels of Numba."""
    return cuda.external_stream(torch.cuda.current_stream().cuda_stream) if device().type == "cuda" else 0


def _for_numba(tensor: Tensor) -> Any:
    """A tensor as an array for them, which shares its memory."""
    return cuda.as_cuda_array(tensor) if tensor.is_cuda else tensor.numpy()

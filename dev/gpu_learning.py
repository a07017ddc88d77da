"""Learners on a GPU: PPO there beside PPO on the processor, recorded gradient steps beside others; their speed.

    python -m dev.gpu_learning      all, on a GPU; fails where there is none: make test-gpu
    python -m dev.simulated_gpu dev.gpu_learning --check --device cpu      what PPO computes, by Numba's simulator

For PPO the processor plays the actions again. Values, advantages and returns are worked out from that as they are
without a GPU, and so is a gradient step, by hand where the GPU's is by autograd.
"""

import argparse
import copy
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numba import cuda
from numpy.typing import NDArray
from torch import Tensor

from dev.learners import LEARNERS, STEPS
from preceptor.agent.levels import Player, SingleOption
from preceptor.agent.losses import explained_variance
from preceptor.agent.methods.ppo import PPO, PolicyBatch, PPOConfig, means, rollout_batch
from preceptor.agent.methods.ppo_on_gpu import OnGpu
from preceptor.agent.networks import LowNetwork
from preceptor.agent.players import play, summary
from preceptor.controller.encoders import encoder_of
from preceptor.controller.network import TrunkConfig
from preceptor.envs.catalog import get_task
from preceptor.envs.gridworld.tasks import GridTask
from preceptor.envs.task import Task
from preceptor.ground.device import device, use_device
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import SEEDS_PER_SPLIT, drawn_number, random_bits

# Play is random here: so there are rooms in which it wins, and lava, which ends episodes otherwise.
TASKS = "DynamicDoorKey:rooms=5-5", "MiniGrid-Empty-5x5-v0", "MiniGrid-LavaGapS5-v0"
_LIMIT = 24  # steps of an episode
_SCALE = 0.5  # of rewards
_ROLLOUT = 32  # where speed is measured
_COLUMNS = "tokens", "presence", "log-probabilities", "advantages", "returns"
_COMPARED = 20  # gradient steps, after which those that are recorded are compared with others
# Environments, minibatch and epochs: those of docs/speed.md, and many; how many seeds learn in one program.
SPEEDS = (256, 2_048, 4, 1), (256, 2_048, 4, 32), (2_048, 16_384, 1, 1), (2_048, 16_384, 1, 32), (8_192, 65_536, 1, 1)


def short(task_name: str) -> GridTask:
    """A task whose episodes end after a few steps."""
    task = copy.copy(get_task(task_name))
    assert isinstance(task, GridTask)
    task.level_spec = replace(task.level_spec, max_steps=_LIMIT)
    return task


def learner_of(task: Task, config: PPOConfig, where: torch.device) -> PPO:
    """PPO from scratch."""
    network = LowNetwork(encoder_of(task), 1, task.num_actions, TrunkConfig())
    return PPO(network.to(where), config, np.random.default_rng(0))


class Again:
    """The processor, which plays what a run has played on the GPU, and learns from it.

    Attributes:
        told: What the last round came to.
    """

    def __init__(self, task: Task, num_envs: int, config: PPOConfig, seed: int) -> None:
        self.learner = learner_of(task, config, torch.device("cpu"))
        self.told: dict[str, float] = {}
        self._encoder, self._env = encoder_of(task), task.make_vec(num_envs, seed=seed)
        self._obs, _ = self._env.reset()
        self._key, self._drawn = int(random_bits(np.array([seed]), 1).view(np.int64)[0, 0]), 0
        self._running = np.zeros((2, num_envs))

    def take(self, other: PPO) -> None:
        """Be where the other learner is."""
        self.learner.load_state_dict(copy.deepcopy(other.state_dict()))

    @torch.no_grad()
    def play(self, actions: Tensor) -> tuple[PolicyBatch, NDArray[np.bool_]]:
        """The samples of actions [T, N], and ends [3, T, N]. Raises `UserError` where it would have drawn others."""
        network, seen, after, log_prob = self.learner.network, [], [], []
        episodes: list[tuple[float, ...]] = []
        reward, ends = np.zeros(actions.shape, np.float32), np.zeros((3, *actions.shape), np.bool_)
        for t, action in enumerate(actions):
            seen.append(self._inputs(self._obs))
            outputs = network(*seen[-1])[0]
            self._check_drawn(action.numpy(), outputs.softmax(1).double().cumsum(1).numpy())
            log_prob.append(network.head.log_prob(outputs, action))
            self._obs, reward[t], *over, info = self._env.step(action.numpy())
            ends[:, t] = *over, info["success"]
            following, ended = self._obs.copy(), np.flatnonzero(ends[:2, t].any(0))
            if len(ended):
                following[ended] = info["final_obs"][ended]
            after.append(self._inputs(following))
            self._running += reward[t], np.ones(len(action))
            episodes += zip(info["success"][ended], *self._running[:, ended], strict=True)
            self._running[:, ended] = 0
        inputs, afterwards = (tuple(map(torch.cat, zip(*steps, strict=True))) for steps in (seen, after))
        over_in = {"terminated": ends[0], "cut": ends[:2].any(0)}
        scaled = reward * np.float32(_SCALE)
        log_probs = torch.cat(log_prob)
        batch = rollout_batch(self.learner, inputs, afterwards, actions.flatten(), log_probs, scaled, **over_in)
        named = zip(("success", "return", "length"), np.mean(episodes, 0), strict=True) if episodes else ()
        self.told = {f"rollout/{name}": float(mean) for name, mean in named}
        values = network(*inputs)[1].numpy()
        self.told["low/explained_variance"] = explained_variance(values, batch.returns.numpy())
        return batch, ends

    def learn(self, batch: PolicyBatch, remaining: float) -> None:
        """Some epochs over these samples, in the orders that are drawn."""
        self.told["low/learning_rate"] = self.learner.scale_rates(remaining)["learning_rate"]
        for _ in range(self.learner.config.epochs):
            order = torch.as_tensor(np.argsort(self._draw(len(batch))))
            terms = means(self.learner.pass_over(batch, order))
            self.told |= {f"low/{name}": float(term) for name, term in terms.items()}

    def _check_drawn(self, action: NDArray[np.int64], below: NDArray[np.float64]) -> None:
        """Actions [N], of cumulative probabilities [N, A]; which of two is drawn at the border, rounding decides."""
        chance = self._draw(len(action))[:, None] * 2.0**-53
        least, most = ((below <= chance + by).sum(1) for by in (-1e-5, 1e-5))
        if not ((least <= action) & (action <= most)).all():
            raise UserError("Other actions were drawn than random numbers and probabilities say.")

    def _draw(self, count: int) -> NDArray[np.int64]:
        self._drawn += 1
        return np.array([drawn_number(self._key, self._drawn - 1, row) for row in range(count)])

    def _inputs(self, obs: NDArray) -> tuple[Tensor, ...]:
        return *map(torch.as_tensor, self._encoder(obs).parts), torch.zeros(len(obs), dtype=torch.int64)


def check(task_name: str, num_envs: int, rollout: int, rounds: int, seeds: Sequence[int]) -> str:
    """Play and learn on both, several runs in one program, and say what was compared.

    Raises `UserError` at the first difference.
    """
    steps, clipped = num_envs * rollout, 0.05  # far shorter than gradients are
    config = PPOConfig(gamma=0.97, epochs=2, minibatch=steps // 2, max_grad_norm=clipped)
    task, learners = short(task_name), [learner_of(short(task_name), config, device()) for _ in seeds]
    runs = [
        (learner, Again(task, num_envs, config, seed), OnGpu(task, learner, num_envs, rollout, _SCALE, seed))
        for learner, seed in zip(learners, seeds, strict=True)
    ]
    OnGpu.join([phase for _, _, phase in runs])
    sums: NDArray[np.int64] = np.zeros(3, np.int64)
    before: list[Any] = []
    for k in range(rounds):
        before = [copy.deepcopy((learner.state_dict(), phase.state_dict())) for learner, _, phase in runs]
        for learner, again, _ in runs:
            again.take(learner)
        infos = [phase.advance(None, k * steps, rounds * steps).info for _, _, phase in runs]
        for info, (learner, again, phase) in zip(infos, runs, strict=True):
            samples, ended = phase.played()
            batch, ends = again.play(samples.action.view(rollout, num_envs).cpu())
            sums += [(ends[:2].any(0)).sum(), ends[1].sum(), ends[2].sum()]
            _equal(task_name, k, "ends", ended, torch.as_tensor(ends))
            for name, of_gpu, wanted in zip(_COLUMNS, _columns(samples), _columns(batch), strict=True):
                _equal(task_name, k, name, of_gpu, wanted)
            again.learn(_in_main_memory(samples), 1 - (k + 1) / rounds)
            for part in ("network", "optimizer"):
                of_gpu, wanted = (each.state_dict()[part] for each in (learner, again.learner))
                _equal(task_name, k, part, of_gpu, wanted, within=1e-6)
            _equal(task_name, k, "what is told", info, again.told)
    for (learner, _, phase), state in zip(runs, before, strict=True):
        _resumes(task_name, OnGpu(task, learner, num_envs, rollout, _SCALE, phase.seed), state, phase)
    ended, cut, won = sums
    played_in = f"{rounds} rounds of {rollout} steps of {num_envs} grids"
    return f"{task_name}: {len(runs)} runs, {played_in}, {ended} episodes, {won} won, {cut} cut off"


def _in_main_memory(batch: PolicyBatch) -> PolicyBatch:
    columns = batch.action, batch.behaviour_logprob, batch.advantage, batch.returns
    return PolicyBatch(tuple(each.cpu() for each in batch.inputs), *(each.cpu() for each in columns))


def _columns(batch: PolicyBatch) -> tuple[Tensor, ...]:
    return *batch.inputs[:2], batch.behaviour_logprob, batch.advantage, batch.returns


def _equal(name: str, k: int, what: str, of_gpu: Any, wanted: Any, within: float = 1e-4) -> None:
    how: Any = {"rtol": 0.0, "atol": within, "check_device": False, "check_dtype": False}
    try:
        torch.testing.assert_close(of_gpu, wanted, **how)
    except AssertionError as error:
        raise UserError(f"{name}: {what} of round {k} differ: {error}") from error


def _resumes(name: str, alone: OnGpu, state: tuple[dict[str, Any], dict[str, Any]], other: OnGpu) -> None:
    """Check that from a saved state the same is played by itself."""
    of_learner, of_phase = state
    alone.learner.load_state_dict(of_learner)
    alone.load_state_dict(of_phase)
    alone.advance(None, 0, 1)
    if not torch.equal(alone.played()[0].action, other.played()[0].action):
        raise UserError(f"{name}: from a saved state other actions are played.")
    _equal(name, alone.rounds, "what is resumed", alone.state_dict(), other.state_dict())


def recorded_steps(name: str, where: str) -> str:
    """Recorded gradient steps beside others from the same batches, and of both how many a second of the clock."""
    learners = []
    for recorded in (False, True):
        use_device(where, recorded)
        learners.append((recorded, LEARNERS[name](), list[float]()))
    for k in range(STEPS):
        for recorded, learning, seconds in learners:
            use_device(where, recorded)
            torch.cuda.synchronize()
            started = time.perf_counter()
            learning.step(k)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        if k == _COMPARED:
            (_, one, _), (_, other, _) = learners
            for plain, recorded_one in zip(one.parameters, other.parameters, strict=True):
                _equal(name, k, "weights", recorded_one, plain)
    speeds = [1 / np.median(seconds) for _, _, seconds in learners]
    return f"{name}: {speeds[0]:,.0f} gradient steps a second, {speeds[1]:,.0f} recorded"


def speed(num_envs: int, minibatch: int, epochs: int, seeds: int) -> str:
    """Environment steps of training per second of the clock, those of all seeds, and what recording took."""
    task, config = get_task("DoorKey-8x8"), PPOConfig(minibatch=minibatch, epochs=epochs)
    phases = [OnGpu(task, learner_of(task, config, device()), num_envs, _ROLLOUT, 1.0, seed) for seed in range(seeds)]
    OnGpu.join(phases)

    def train(rounds: int) -> float:
        started = time.perf_counter()
        for _ in range(rounds):
            for phase in phases:
                phase.advance(None, 0, 10**12)
        torch.cuda.synchronize()
        return time.perf_counter() - started

    first = train(5)  # compiles and records
    rounds = max(5, int(5 / (train(5) / 5)))
    each = train(rounds) / rounds
    setting = f"{seeds} x {num_envs:,} grids, batch {minibatch:,}, {epochs} epochs"
    speed_of_all = seeds * num_envs * _ROLLOUT / each
    return f"  {setting}: {speed_of_all:,.0f}, after {first:.1f} s of compiling and recording"


def from_scratch(num_envs: int = 2_048, budget: int = 20_000_000) -> str:
    """DoorKey-8x8 without a teacher, until .95 of the episodes that end are won, and what held-out levels say then."""
    task = get_task("DoorKey-8x8")
    learner = learner_of(task, PPOConfig(lr=1e-3, minibatch=16_384, epochs=1), device())
    phase = OnGpu(task, learner, num_envs, _ROLLOUT, 1.0, seed=5)
    steps, success, compiled = 0, 0.0, time.perf_counter()
    while success < 0.95 and not phase.over(steps, budget):
        if steps == 5 * num_envs * _ROLLOUT:
            torch.cuda.synchronize()
            compiled = time.perf_counter()
        steps, info = phase.advance(None, steps, budget)
        success = info.get("rollout/success", 0.0)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - compiled
    assert isinstance(learner.network, LowNetwork)
    player = Player(SingleOption(), learner.network, np.ones(1, np.int64))
    held_out = summary(play(task, player, range(SEEDS_PER_SPLIT, SEEDS_PER_SPLIT + 500), greedy=False))
    after = f"{seconds:.2f} s and {steps:,} steps"
    return f"DoorKey-8x8: won {success:.2f} of what ended after {after}; held-out levels {held_out['success']:.3f}"


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m dev.gpu_learning", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--check", action="store_true", help="and no more")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--num-envs", type=int, default=250)
    parser.add_argument("--rollout", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3, help="of the runs that learn in one program")
    said = parser.parse_args()
    if not cuda.is_available():
        sys.exit("There is no GPU that Numba can use here, so nothing was tested: `numba -s` says what it looked for.")
    use_device(said.device, recorded=True)
    print("the same as on the processor:")
    for name in TASKS:
        print(f"  {check(name, said.num_envs, said.rollout, said.rounds, range(said.seeds))}", flush=True)
    if said.check:
        return
    print("recorded as without that:")
    for name in LEARNERS:
        print(f"  {recorded_steps(name, said.device)}", flush=True)
    use_device(said.device, recorded=True)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, steps of training a second of the clock:")
    for setting in SPEEDS:
        print(speed(*setting), flush=True)
    print(from_scratch())


if __name__ == "__main__":
    main()

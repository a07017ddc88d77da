"""Each kind of learner at work on noise or random play, for comparisons of its gradient steps."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from preceptor.agent.halo.config import NeuralConfig
from preceptor.agent.halo.policies import NeuralPolicies
from preceptor.agent.losses import PriorActions
from preceptor.agent.methods.ppo import PPO, PolicyBatch, PPOConfig
from preceptor.agent.methods.sac import SAC, SACConfig, Transitions
from preceptor.agent.methods.sac_discrete import DiscreteSAC, DiscreteSACConfig, OptionTransitions
from preceptor.agent.methods.td3 import TD3, TD3Config
from preceptor.agent.networks import LowNetwork
from preceptor.controller.distill import DistilConfig, Distillation, distillation_gradients, scenes_of
from preceptor.controller.encoders import VectorEncoder, encoder_of
from preceptor.controller.network import TrunkConfig
from preceptor.controller.roles import network_of
from preceptor.envs.catalog import get_task
from preceptor.ground.device import device, to_device, to_tensor

STEPS: Final = 1_000  # of gradient, after which a prior is gone
_BATCHES: Final = 16


class Learning(NamedTuple):
    """What takes a gradient step, given its number, and what learns by it."""

    step: Callable[[int], Any]
    parameters: Sequence[Tensor]


def of_transitions(learner: SAC | TD3, held: bool = False) -> Learning:
    """An actor that learns from noise, and may be held to a prior that fades."""
    drawn, batches = torch.Generator().manual_seed(0), []
    for _ in range(_BATCHES):
        noise = (torch.randn(256, *size, generator=drawn) for size in ((17,), (6,), (), (17,)))
        obs, action, reward, after = (each.to(device()) for each in noise)
        batches.append(Transitions(obs, action.tanh(), reward, after, torch.full_like(reward, 0.99)))

    def step(k: int) -> Any:
        batch = batches[k % _BATCHES]
        prior = PriorActions(-batch.action, 1 - k / STEPS, value_filter=True) if held else None
        return learner.update(replace(batch, prior=prior))

    return Learning(step, list(learner.actor.parameters()))


def of_roll_outs() -> Learning:
    """A low level with four options, which learns from random play by PPO."""
    task, rng = get_task("SimpleDoorKey"), np.random.default_rng(0)
    options, count, env = len(task.options), 256, task.make_vec(256, seed=0)
    torch.manual_seed(0)
    network = to_device(LowNetwork(encoder_of(task), options, task.num_actions, TrunkConfig()))
    learner, batches, (obs, _) = PPO(network, PPOConfig(), rng), [], env.reset()
    for _ in range(_BATCHES):
        action, option = rng.integers(task.num_actions, size=count), rng.integers(options, size=count)
        told, prior = rng.standard_normal((3, count)), rng.standard_normal((count, task.num_actions))
        inputs = tuple(map(to_tensor, (*encoder_of(task)(obs).parts, option)))
        log_prob, advantage, returns, wanted = (to_tensor(each.astype(np.float32)) for each in (*told, prior))
        batches.append(PolicyBatch(inputs, to_tensor(action), log_prob, advantage, returns, wanted=wanted))
        obs = env.step(action)[0]
    in_order = torch.arange(count, device=device())
    return Learning(lambda k: learner.pass_over(batches[k % _BATCHES], in_order, 1 - k / STEPS), learner.parameters)


def of_options() -> Learning:
    """A high level that learns options from noise, and is held to a prior that fades."""
    drawn, batches, options = torch.Generator().manual_seed(0), [], 5
    learner = DiscreteSAC(VectorEncoder([1.0] * 17), options, DiscreteSACConfig(), seed=1)
    for _ in range(_BATCHES):
        obs, after = torch.randn(2, 128, 17, generator=drawn).to(device())
        option, reward = torch.randint(options, (128,), generator=drawn), torch.randn(128, generator=drawn)
        prior, legal = torch.randn(128, options, generator=drawn).softmax(1), torch.ones(128, options, dtype=torch.bool)
        columns = legal, legal, option, reward, torch.full_like(reward, 0.99), prior
        rest = (each.to(device()) for each in columns)
        batches.append(OptionTransitions((obs,), (after,), *rest))

    def step(k: int) -> Any:
        return learner.update(replace(batches[k % _BATCHES], prior_weight=1 - k / STEPS))

    return Learning(step, list(learner.actor.parameters()))


def distillation() -> Learning:
    """A controller of scenes from random play with labels among what is legal."""
    task, rng = get_task("ColoredDoorKey"), np.random.default_rng(0)
    env, count, options = task.make_vec(1_000, seed=0), 1_000, len(task.options)
    obs, _ = env.reset()
    for _ in range(20):
        obs = env.step(rng.integers(task.num_actions, size=count))[0]
    legal = task.legal(obs)
    probs = (legal / legal.sum(1, keepdims=True)).astype(np.float32)
    torch.manual_seed(0)
    network = to_device(network_of(task))
    gradients = partial(distillation_gradients, network, masked=True)
    made = Distillation(encoder_of(task), [network], gradients, DistilConfig(), np.random.default_rng(0))
    made.add(scenes_of(task, obs, rng.integers(-1, options, count), probs, legal))
    return Learning(lambda k: made.train(1, k / STEPS), list(network.parameters()))


def em() -> Learning:
    """HALO's networks, which learn from noise."""
    config, drawn, restarts, options = NeuralConfig(), torch.Generator().manual_seed(0), 4, 3
    policies = NeuralPolicies(40, options, 5, False, restarts, config, 0)
    batches, share = [], torch.tensor(1e-3, device=device())
    for _ in range(_BATCHES):
        features = torch.randn(config.batch, 40, generator=drawn)
        action = torch.randint(5, (config.batch,), generator=drawn)
        low = torch.rand(restarts, config.batch, options, generator=drawn)
        pairs = torch.rand(restarts, config.batch, options, options, generator=drawn)
        batches.append([each.to(device()) for each in (features, action, low, pairs, low / 2)])
    return Learning(lambda k: policies.step(*batches[k % _BATCHES], share), list(policies.parameters()))


LEARNERS: dict[str, Callable[[], Learning]] = {
    "SAC": lambda: of_transitions(SAC(17, 6, SACConfig(precision="float32"), seed=1)),
    "SAC with a prior": lambda: of_transitions(SAC(17, 6, SACConfig(precision="float32"), seed=1), held=True),
    "SAC over options": of_options,
    "TD3": lambda: of_transitions(TD3(17, 6, TD3Config(precision="float32"), seed=1)),
    "PPO": of_roll_outs,
    "distillation": distillation,
    "EM of networks": em,
}

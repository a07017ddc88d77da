"""PPO's loss and its gradient, worked out by hand for a low level over tokens with named actions.

It is what autograd makes of `PPO.loss`, to which tests hold it, in a fraction of the time: networks are so small that
autograd's own work, and many small operations, are most of what a gradient step costs.
"""

from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn
from torch.ops import aten

from preceptor.agent.networks import CategoricalHead, LowNetwork
from preceptor.controller.network import TokenTrunk
from preceptor.controller.seen import FirstLayer

if TYPE_CHECKING:
    from preceptor.agent.methods.ppo import PolicyBatch, PPOConfig

_TERMS = "policy_loss", "value_loss", "entropy", "prior_kl", "approximate_kl", "clip_fraction"


class Weights(NamedTuple):
    """Of the parts of the loss, and what ratios are clipped to."""

    policy: float
    value: float
    entropy: float
    prior: float
    clip: float


def fits(network: nn.Module, inputs: tuple[Tensor, ...]) -> TypeGuard[LowNetwork]:
    """Whether `gradients` handles this network: tokens in main memory in, named actions out.

    Where colours are shown as roles there is a fourth input, and outputs are in another order than the task's.
    """
    return (
        isinstance(network, LowNetwork)
        and isinstance(network.trunk, TokenTrunk)
        and isinstance(network.head, CategoricalHead)
        and len(inputs) == 3
        and inputs[0].is_cpu
    )


@torch.no_grad()
def gradients(
    network: LowNetwork, batch: "PolicyBatch", config: "PPOConfig", prior_weight: float, policy: bool
) -> tuple[list[Tensor | None], dict[str, Tensor]]:
    """As `PPO.gradients`, of a network that `fits`; in the order of its parameters."""
    weights = Weights(1.0, config.value, config.entropy, prior_weight if batch.wanted is not None else 0.0, config.clip)
    if not policy:
        weights = Weights(0.0, 1.0, 0.0, 0.0, config.clip)
    trunk, (tokens, present, option) = network.trunk, batch.inputs
    option = option if network.num_options > 1 else torch.zeros_like(option)
    assert isinstance(trunk, TokenTrunk)
    parts = trunk.get_buffer("parts")
    # Forwards
    layer = FirstLayer(trunk.embed(parts), trunk.cells.weight)
    first = torch.addmm(trunk.others.bias + layer.always, present, trunk.others.weight.t())
    seen = layer.add_to(first, tokens)
    first.relu_()
    second = torch.addmm(trunk.hidden.bias, first, trunk.hidden.weight.t()).relu_()
    heads = network.action_head, network.value_head
    both = torch.cat([head.weight for head in heads])
    outputs = torch.addmm(torch.cat([head.bias for head in heads]), second, both.t())
    # Backwards
    columns = option, batch.action, batch.behaviour_logprob, batch.advantage, batch.returns, outputs
    wanted = None if batch.wanted is None else batch.wanted.numpy()
    given, terms = torch.zeros_like(outputs), np.zeros(len(_TERMS))
    arrays = (column.numpy() for column in columns)
    _differentiate(*arrays, wanted, network.num_actions, weights, given.numpy(), terms)
    of_heads, of_biases = (
        part.split([len(head.weight) for head in heads]) for part in (given.t() @ second, given.sum(0))
    )
    to_second = aten.threshold_backward(given @ both, second, 0)
    to_first = aten.threshold_backward(to_second @ trunk.hidden.weight, first, 0)
    over_samples = to_first.sum(0)
    of_table, of_cells = layer.gradients(seen, to_first, over_samples)
    of_others = to_first.t() @ present, over_samples
    of_trunk = of_table.t() @ parts, of_cells, *of_others, to_second.t() @ first, to_second.sum(0)
    of_actions = (of_heads[0], of_biases[0]) if policy else (None, None)
    told = dict(zip(_TERMS, torch.as_tensor(terms), strict=True))
    left_out = {"entropy": config.entropy == 0, "prior_kl": wanted is None}
    terms_told = {name: told[name] for name in (_TERMS if policy else ("value_loss",)) if not left_out.get(name)}
    return [*of_trunk, *of_actions, of_heads[1], of_biases[1]], terms_told


@njit(cache=True)
def _differentiate(option, action, before, advantage, returns, outputs, wanted, actions, weights, given, terms):  # type: ignore[no-untyped-def]
    count, values = len(action), outputs.shape[1] // (actions + 1) * actions  # where the values begin
    log_p, p, log_q = np.empty(actions), np.empty(actions), np.zeros(actions)
    for n in range(count):
        first, chosen = option[n] * actions, action[n]
        if not (0 <= first < values and 0 <= chosen < actions):
            raise IndexError("there is no such option or action")
        entropy = -_log_softmax(outputs[n, first : first + actions], log_p, p)
        log_ratio = log_p[chosen] - before[n]
        ratio = np.exp(log_ratio)
        clipped = min(max(ratio, 1 - weights.clip), 1 + weights.clip)
        surrogate, error = ratio * advantage[n], outputs[n, values + option[n]] - returns[n]
        divergence = 0.0
        if wanted is not None:
            _log_softmax(wanted[n], log_q, p)
            divergence = -entropy
            for a in range(actions):
                p[a] = np.exp(log_p[a])
                divergence -= p[a] * log_q[a]
        terms[0] -= min(surrogate, clipped * advantage[n])
        terms[1] += error * error
        terms[2] += entropy
        terms[3] += divergence
        terms[4] += ratio - 1 - log_ratio
        terms[5] += ratio != clipped
        slope = 0.0 if surrogate > clipped * advantage[n] else surrogate  # nothing of what is clipped
        for a in range(actions):
            change = weights.policy * slope * (p[a] - (a == chosen)) + weights.entropy * p[a] * (log_p[a] + entropy)
            given[n, first + a] = (change + weights.prior * p[a] * (log_p[a] - log_q[a] - divergence)) / count
        given[n, values + option[n]] = weights.value * error / count
    terms /= count


@njit(cache=True, inline="always")
def _log_softmax(logits, log_p, p):  # type: ignore[no-untyped-def]
    # Fills both, and returns the expected log-probability
    highest, total, expected = logits[0], 0.0, 0.0
    for a in range(len(logits)):
        highest = max(highest, logits[a])
    for a in range(len(logits)):
        p[a] = np.exp(logits[a] - highest)
        total += p[a]
    for a in range(len(logits)):
        p[a] /= total
        log_p[a] = logits[a] - highest - np.log(total)
        expected += p[a] * log_p[a]
    return expected

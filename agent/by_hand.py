"""Gradients of PPO's loss and of imitated skills, worked out by hand for networks over tokens with named actions.

They are what autograd makes of `PPO.loss` and of loss L2, to which tests hold them (`controller/by_hand.py` says why).
"""

from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from preceptor.agent.networks import CategoricalHead, HighNetwork, LowNetwork
from preceptor.controller import by_hand
from preceptor.controller.by_hand import NetworkPass, controller_pass, log_softmax
from preceptor.controller.network import in_order, numbered, out_of_order
from preceptor.controller.seen import check_shape

if TYPE_CHECKING:
    from preceptor.agent.methods.ppo import PolicyBatch, PPOConfig

_TERMS = "policy_loss", "value_loss", "entropy", "prior_kl", "approximate_kl", "clip_fraction"


class Weights(NamedTuple):
    """Of the parts of the loss, whether it is more than the values' part, and what ratios are clipped to."""

    policy: bool
    value: float
    entropy: float
    prior: float
    clip: float


def fits(network: nn.Module) -> TypeGuard[LowNetwork | HighNetwork]:
    """Whether the functions here handle this network: tokens in main memory in, named actions or options out."""
    if isinstance(network, HighNetwork):
        return by_hand.fits(network.controller)
    return isinstance(network, LowNetwork) and isinstance(network.head, CategoricalHead) and by_hand.fits(network)


@torch.no_grad()
def ppo(
    network: LowNetwork | HighNetwork, batch: "PolicyBatch", config: "PPOConfig", prior_weight: float, policy: bool
) -> tuple[list[Tensor | None], dict[str, float]]:
    """As `PPO.gradients`, of a network that `fits`."""
    prior = prior_weight if batch.wanted is not None else 0.0
    weights = Weights(policy, config.value if policy else 1.0, config.entropy, prior, config.clip)
    *parts, option = batch.inputs
    if isinstance(network, HighNetwork):
        controller, only = network.controller, torch.zeros_like(option)
        made = controller_pass(controller, (controller.option_head, network.value_head), batch.inputs)
        logits, values = made.outputs.split([controller.num_options, 1], 1)
        outputs = torch.cat([in_order(logits, parts), values], 1)
        given, terms = _differentiated(batch, weights, only, outputs, controller.num_options)
        of_logits, of_values = given.split([controller.num_options, 1], 1)
        given, unused = torch.cat([out_of_order(of_logits, parts), of_values], 1), [None, None]  # the head of ends
    else:
        made = NetworkPass(network.trunk, (network.action_head, network.value_head), *parts[:2])
        option = numbered(option, parts) if network.num_options > 1 else torch.zeros_like(option)
        given, terms = _differentiated(batch, weights, option, made.outputs, network.num_actions)
        unused = []
    of_trunk, (of_policy, of_value) = made.gradients(given)
    gradients = [*of_trunk, *(of_policy if policy else (None, None)), *unused, *of_value]
    left_out = {"entropy": config.entropy == 0, "prior_kl": batch.wanted is None}
    told = {name: terms[name] for name in (_TERMS if policy else ("value_loss",)) if not left_out.get(name)}
    return gradients, told


def _differentiated(
    batch: "PolicyBatch", weights: Weights, option: Tensor, outputs: Tensor, actions: int
) -> tuple[Tensor, dict[str, float]]:
    """The loss's gradient in outputs [B, K (A + 1)], logits of each option and then values, and all terms."""
    given, terms = np.zeros(outputs.shape, np.float32), np.zeros(len(_TERMS))
    parts = option, batch.action, batch.behaviour_logprob, batch.advantage, batch.returns, outputs
    arrays = [part.numpy() for part in parts]
    others = [None if part is None else part.numpy() for part in (batch.wanted, batch.legal)]
    check_shape((len(given),), *arrays[:-1])
    check_shape((len(given), actions), *others)
    _differentiate(*arrays, *others, actions, weights, given, terms)
    return torch.as_tensor(given), dict(zip(_TERMS, terms.tolist(), strict=True))


@torch.no_grad()
def imitation(
    network: LowNetwork, parts: tuple[Tensor, ...], targets: Tensor, mask: Tensor
) -> tuple[list[Tensor | None], float]:
    """The gradient of loss L2 in the parameters, in their order, of a network that `fits`, and the loss.

    Args:
        network: Imitates.
        parts: What its trunk takes, each [N, ...].
        targets: Distributions over actions [N, K, A].
        mask: Which of them count, bool [N, K].
    """
    made = NetworkPass(network.trunk, (network.action_head,), *parts[:2])
    logits = made.outputs.view(-1, network.num_options, network.num_actions)
    check_shape(tuple(logits.shape), targets)
    check_shape(tuple(logits.shape[:2]), mask)
    order = parts if network.num_options > 1 else ()
    logits, given = in_order(logits, order), torch.zeros_like(targets)
    loss = _imitate(*(part.contiguous().numpy() for part in (logits, targets, mask)), given.numpy())
    of_trunk, (of_actions,) = made.gradients(out_of_order(given, order).flatten(1))
    return [*of_trunk, *of_actions, None, None], loss


@njit(cache=True)
def _imitate(logits, targets, mask, given):  # type: ignore[no-untyped-def]
    # Fills the gradient, and returns the loss
    actions, loss, count = logits.shape[2], 0.0, max(mask.sum(), 1)
    log_p, p = np.empty(actions), np.empty(actions)
    for n in range(logits.shape[0]):
        for k in range(logits.shape[1]):
            if mask[n, k]:
                log_softmax(logits[n, k], log_p, p)
                total = targets[n, k].sum()
                for a in range(actions):
                    loss -= targets[n, k, a] * log_p[a]
                    given[n, k, a] = (total * p[a] - targets[n, k, a]) / count
    return loss / count


@njit(cache=True)
def _differentiate(option, action, before, advantage, returns, outputs, wanted, legal, actions, weights, given, terms):  # type: ignore[no-untyped-def]
    count, values = len(action), outputs.shape[1] // (actions + 1) * actions  # where the values begin
    logits, log_p, p, log_q = np.empty(actions), np.empty(actions), np.empty(actions), np.zeros(actions)
    for n in range(count):
        first, chosen = option[n] * actions, action[n]
        if not (0 <= first < values and 0 <= chosen < actions):
            raise IndexError("there is no such option or action")
        error = outputs[n, values + option[n]] - returns[n]
        given[n, values + option[n]] = weights.value * error / count
        terms[1] += error * error
        if not weights.policy:
            continue
        divergence = 0.0
        if wanted is not None:
            for a in range(actions):
                logits[a] = wanted[n, a] if legal is None or legal[n, a] else -1e9
            log_softmax(logits, log_q, p)
        for a in range(actions):
            logits[a] = outputs[n, first + a] if legal is None or legal[n, a] else -1e9
        entropy = -log_softmax(logits, log_p, p)
        if wanted is not None:
            divergence = -entropy
            for a in range(actions):
                divergence -= p[a] * log_q[a]
        log_ratio = log_p[chosen] - before[n]
        ratio = np.exp(log_ratio)
        clipped = min(max(ratio, 1 - weights.clip), 1 + weights.clip)
        surrogate = ratio * advantage[n]
        terms[0] -= min(surrogate, clipped * advantage[n])
        terms[2] += entropy
        terms[3] += divergence
        terms[4] += ratio - 1 - log_ratio
        terms[5] += ratio != clipped
        slope = 0.0 if surrogate > clipped * advantage[n] else surrogate  # nothing of what is clipped
        for a in range(actions):
            change = slope * (p[a] - (a == chosen)) + weights.entropy * p[a] * (log_p[a] + entropy)
            change += weights.prior * p[a] * (log_p[a] - log_q[a] - divergence)
            given[n, first + a] = change / count if legal is None or legal[n, a] else 0.0
    terms /= count

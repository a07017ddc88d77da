"""Gradients of SAC's losses, worked out by hand for plain networks in main memory.

They are what autograd makes of `SAC.critic_loss` and `SAC.actor_loss`, to which tests hold them. Products of matrices
are torch's, into memory that is kept from step to step; what lies between them is compiled.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from preceptor.agent.networks import LOG_STD_MAX, LOG_STD_MIN, GaussianActor, TwinCritic
from preceptor.controller.passes import stop
from preceptor.controller.seen import FAST, check_shape
from preceptor.ground.device import normal

if TYPE_CHECKING:
    from preceptor.agent.methods.sac import Transitions

_BLOCK = 16  # oneDNN compiles a product once for each number of rows, so there are not many
_LOG_2, _LOG_ROOT = math.log(2), 0.5 * math.log(2 * math.pi)


def fits(actor: nn.Module, critic: nn.Module, batch: "Transitions") -> bool:
    """Whether the functions here handle networks and batch: plain ones, float32 in main memory, and no prior."""
    if type(actor) is not GaussianActor or type(critic) is not TwinCritic or critic.normed or len(critic.weights) < 2:
        return False
    parameters = *actor.parameters(), *critic.parameters()
    return _plain(parameters) and all(each.requires_grad for each in parameters) and _handled(batch)


def _handled(batch: "Transitions") -> bool:
    parts = batch.obs, batch.action, batch.reward, batch.next_obs, batch.discount
    return batch.prior is None and _plain(parts)


def _plain(arrays: Sequence[Tensor]) -> bool:
    return all(each.dtype is torch.float32 and each.is_cpu for each in arrays)


class _Layers:
    """A network with ReLU between its layers, or the places of its gradients.

    Attributes:
        weights: Of each layer [I, O].
        biases: [O].
        units: What the hidden layers give [B, H].
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor], units: Sequence[Tensor] = ()) -> None:
        self.weights, self.biases, self.units = weights, biases, units

    def sums(self, inputs: Tensor) -> Tensor:
        """Fill in the units, but for bias and ReLU of the last, which are given [B, H]."""
        for weight, bias, units in zip(self.weights, self.biases, self.units, strict=False):
            torch.mm(inputs, weight, out=units)
            if units is not self.units[-1]:
                _rectify(units.numpy(), bias.numpy())
            inputs = units
        return inputs

    def values(self, inputs: Tensor, values: Tensor) -> None:
        """Fill in the units, and the only output [B]."""
        sums, last = self.sums(inputs), (self.biases[-2], self.weights[-1][:, 0], self.biases[-1], values)
        _value(sums.numpy(), *(each.numpy() for each in last))

    def backwards(self, inputs: Tensor, given: Sequence[Tensor], made: "_Layers") -> None:
        """Fill in gradients of all weights below the last hidden layer, of whose sums `given[-1]` [B, H] is that."""
        for layer in range(len(given) - 1, 0, -1):
            units, below = self.units[layer - 1], given[layer - 1]
            _product(units.t(), given[layer], made.weights[layer])
            torch.mm(given[layer], self.weights[layer].t(), out=below)
            stop(units.numpy(), below.numpy(), made.biases[layer - 1].numpy())
        _product(inputs.t(), given[0], made.weights[0])


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    if out.is_contiguous():
        torch.mm(left, right, out=out)
    else:  # a linear layer's weight, which torch holds as [O, I]
        torch.mm(right.t(), left.t(), out=out.t())


class ByHand:
    """Both gradients of networks that `fits`, for batches of one size.

    Args:
        actor: Is read; it may change in place between calls, as may the others.
        critic: Likewise.
        target: Of the critics' shapes.
        count: B.
    """

    def __init__(self, actor: GaussianActor, critic: TwinCritic, target: TwinCritic, count: int) -> None:
        self._whose, self._count = (actor, critic, target), count
        theirs, twins, followers = ([each.detach() for each in network.parameters()] for network in self._whose)
        self._of_actor, self._of_critic = ([torch.empty_like(each) for each in kind] for kind in (theirs, twins))
        wide = [torch.empty(count, len(bias)) for bias in theirs[1:-2:2]]
        both = [[torch.empty(count, weight.shape[2]) for weight in critic.weights[:-1]] for _ in range(2)]
        self._to_wide, self._to_units = ([torch.empty_like(each) for each in kind] for kind in (wide, both[0]))
        self._actor = _Layers([each.t() for each in theirs[::2]], theirs[1::2], wide)
        self._actor_made = _Layers([each.t() for each in self._of_actor[::2]], self._of_actor[1::2])
        self._twins = [_twin(twins, k, both[k]) for k in range(2)]
        self._twins_made = [_twin(self._of_critic, k) for k in range(2)]
        self._followers = [_twin(followers, k, both[0]) for k in range(2)]
        actions, width = len(theirs[-1]) // 2, critic.weights[0].shape[1]
        self._observed = width - actions
        self._inputs, self._to_action = torch.empty(count, width), torch.empty(count, actions)
        self._outputs, self._to_outputs = torch.empty(2, count, 2 * actions)
        self._values, self._wanted, self._log_prob = torch.empty(2, count), *torch.empty(2, count)
        self._rows = torch.empty(count, dtype=torch.int64)

    def takes(self, networks: Sequence[nn.Module], batch: "Transitions") -> bool:
        """Whether it is made for these networks and batches of this size and kind."""
        same = all(mine is each for mine, each in zip(self._whose, networks, strict=True))
        return same and len(batch.obs) == self._count and _handled(batch)

    @torch.no_grad()
    def critics(
        self, batch: "Transitions", temperature: float, generator: torch.Generator
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The gradient of `SAC.critic_loss` in the critics' parameters, valid until the next call, and what it tells.

        Raises:
            ValueError: Parts of the batch are of other shapes.
        """
        check_shape((self._count, self._observed), batch.next_obs)
        check_shape((self._count,), batch.reward, batch.discount)
        self._sample(batch.next_obs, generator)
        for layers, values in zip(self._followers, self._values, strict=True):
            layers.values(self._inputs, values)
        parts = batch.reward, batch.discount, self._values, self._log_prob, self._wanted
        _soft_target(*(each.numpy() for each in parts), temperature)
        self._put(batch.obs, batch.action)
        loss = total = 0.0
        for layers, made, values in zip(self._twins, self._twins_made, self._values, strict=True):
            layers.values(self._inputs, values)
            arrays = values, self._wanted, layers.units[-1], layers.weights[-1][:, 0], self._to_units[-1]
            places = made.weights[-1][:, 0], made.biases[-1], made.biases[-2]
            error, value = _from_errors(*(each.numpy() for each in (*arrays, *places)))
            loss, total = loss + error, total + value
            layers.backwards(self._inputs, self._to_units, made)
        return self._of_critic, {"critic_loss": torch.tensor(loss), "q": torch.tensor(total / 2)}

    @torch.no_grad()
    def actor(
        self, batch: "Transitions", temperature: float, generator: torch.Generator
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The gradient of `SAC.actor_loss` in the actor's parameters, valid until the next call, and what it tells.

        Each sample has a gradient in the critic alone that values it less, so that only half of theirs is computed.

        Raises:
            ValueError: Observations are of another shape.
        """
        noise, action = self._sample(batch.obs, generator)
        for layers, values in zip(self._twins, self._values, strict=True):
            layers.values(self._inputs, values)
        parts = self._values, self._log_prob, self._rows
        first, loss, entropy = _choose(*(each.numpy() for each in parts), temperature)
        until, since = min(-(-first // _BLOCK) * _BLOCK, self._count), first // _BLOCK * _BLOCK
        self._to_actions(self._twins[0], slice(until), slice(first))
        self._to_actions(self._twins[1], slice(since, None), slice(first, None))
        sampled = self._outputs, noise, action, self._to_action, self._to_outputs, self._actor_made.biases[-1]
        _from_actions(*(each.numpy() for each in sampled), temperature / self._count)
        units, made = self._actor.units[-1], self._actor_made
        _product(units.t(), self._to_outputs, made.weights[-1])
        torch.mm(self._to_outputs, self._actor.weights[-1].t(), out=self._to_wide[-1])
        stop(units.numpy(), self._to_wide[-1].numpy(), made.biases[-2].numpy())
        self._actor.backwards(batch.obs, self._to_wide, made)
        return self._of_actor, {"actor_loss": torch.tensor(loss), "entropy": torch.tensor(entropy)}

    def _put(self, obs: Tensor, action: Tensor) -> None:
        check_shape((self._count, self._observed), obs)
        check_shape(tuple(self._to_action.shape), action)
        self._inputs[:, : self._observed], self._inputs[:, self._observed :] = obs, action

    def _sample(self, obs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Noise and, within the critics' inputs, sampled actions [B, A]."""
        layers, action = self._actor, self._inputs[:, self._observed :]
        check_shape((self._count, self._observed), obs)
        self._inputs[:, : self._observed] = obs
        units, noise = layers.sums(obs), normal(tuple(action.shape), generator)
        _rectify(units.numpy(), layers.biases[-2].numpy())
        torch.mm(units, layers.weights[-1], out=self._outputs)
        _squash(*(each.numpy() for each in (self._outputs, layers.biases[-1], noise, action, self._log_prob)))
        return noise, action

    def _to_actions(self, layers: _Layers, computed: slice, own: slice) -> None:
        """Fill in the gradient in the actions of those samples whose places in `_rows` are `own`, among `computed`."""
        rows, given = self._rows[computed].numpy(), [each[computed] for each in self._to_units]
        _from_values(rows, *(each.numpy() for each in (layers.units[-1], layers.weights[-1][:, 0], given[-1])))
        for layer in range(len(given) - 1, 0, -1):
            torch.mm(given[layer], layers.weights[layer].t(), out=given[layer - 1])
            _stop(rows, layers.units[layer - 1].numpy(), given[layer - 1].numpy())
        parts = self._rows[own], self._to_units[0][own], layers.weights[0][self._observed :], self._to_action
        _add_up(*(each.numpy() for each in parts))


def _twin(parameters: Sequence[Tensor], twin: int, units: Sequence[Tensor] = ()) -> _Layers:
    half = len(parameters) // 2
    return _Layers([each[twin] for each in parameters[:half]], [each[twin, 0] for each in parameters[half:]], units)


@njit(cache=True, fastmath=FAST)
def _rectify(units, bias):  # type: ignore[no-untyped-def]
    for n in range(len(units)):
        row = units[n]
        for h in range(len(row)):
            total = row[h] + bias[h]
            row[h] = np.float32(0) if total <= 0 else total  # NaN stays NaN, here and below


@njit(cache=True, fastmath=FAST)
def _value(units, bias, weight, last_bias, values):  # type: ignore[no-untyped-def]
    # As `_rectify`, and the last layer's only output in the same go
    for n in range(len(units)):
        row, value = units[n], np.float32(0)
        for h in range(len(row)):
            total = row[h] + bias[h]
            total = np.float32(0) if total <= 0 else total
            row[h] = total
            value += total * weight[h]
        values[n] = value + last_bias[0]


@njit(cache=True)
def _soft_target(reward, discount, values, log_prob, wanted, temperature):  # type: ignore[no-untyped-def]
    for n in range(len(wanted)):
        value = values[0, n] if values[0, n] < values[1, n] else values[1, n]
        wanted[n] = reward[n] + discount[n] * (value - np.float32(temperature) * log_prob[n])


@njit(cache=True, fastmath=FAST)
def _from_errors(values, wanted, units, weight, to_units, to_weight, to_last_bias, to_bias):  # type: ignore[no-untyped-def]
    # Fills the gradients of the last layer and in the sums below it, and returns the loss and the mean value
    count, loss, total = len(values), 0.0, 0.0
    to_weight[:], to_last_bias[:], to_bias[:] = 0, 0, 0
    for n in range(count):
        error, row, given = values[n] - wanted[n], units[n], to_units[n]
        loss, total = loss + 0.5 * error * error, total + values[n]
        error /= np.float32(count)
        to_last_bias[0] += error
        for h in range(len(row)):
            change = np.float32(0) if row[h] <= 0 else error * weight[h]
            given[h] = change
            to_bias[h] += change
            to_weight[h] += error * row[h]
    return loss / count, total / count


@njit(cache=True)
def _choose(values, log_prob, rows, temperature):  # type: ignore[no-untyped-def]
    # Puts samples that the first critic values less first, and returns their number, the loss and the entropy
    count, first, loss, entropy = len(rows), 0, 0.0, 0.0
    last = count
    for n in range(count):
        if values[0, n] <= values[1, n]:
            value = values[0, n]
            rows[first] = n
            first += 1
        else:
            value = values[1, n]
            last -= 1
            rows[last] = n
        loss += temperature * log_prob[n] - value
        entropy -= log_prob[n]
    return first, loss / count, entropy / count


@njit(cache=True, fastmath=FAST)
def _from_values(rows, units, weight, to_units):  # type: ignore[no-untyped-def]
    # Of minus the mean value, in the sums of the last hidden layer
    share = np.float32(-1 / len(units))
    for i in range(len(rows)):
        row, given = units[rows[i]], to_units[i]
        for h in range(len(row)):
            given[h] = np.float32(0) if row[h] <= 0 else share * weight[h]


@njit(cache=True, fastmath=FAST)
def _stop(rows, units, to_units):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        row, given = units[rows[i]], to_units[i]
        for h in range(len(row)):
            given[h] = np.float32(0) if row[h] <= 0 else given[h]


@njit(cache=True, fastmath=FAST)
def _add_up(rows, to_units, weight, to_action):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        given = to_units[i]
        for a in range(len(weight)):
            row, total = weight[a], np.float32(0)
            for h in range(len(row)):
                total += given[h] * row[h]
            to_action[rows[i], a] = total


@njit(cache=True)
def _squash(outputs, bias, noise, action, log_prob):  # type: ignore[no-untyped-def]
    # As `GaussianActor.sample`; adds the bias to outputs
    actions = noise.shape[1]
    for n in range(len(noise)):
        total = -_LOG_ROOT * actions
        for a in range(actions):
            outputs[n, a] += bias[a]
            outputs[n, actions + a] += bias[actions + a]
            log_std = _bounded(outputs[n, actions + a])
            unsquashed = outputs[n, a] + math.exp(log_std) * noise[n, a]
            fades = math.exp(-2 * abs(unsquashed))
            action[n, a] = math.tanh(unsquashed)
            slope = 2 * (np.float32(_LOG_2) - abs(unsquashed) - math.log1p(fades))
            total -= np.float32(0.5) * noise[n, a] * noise[n, a] + log_std + slope
        log_prob[n] = total


@njit(cache=True)
def _from_actions(outputs, noise, action, to_action, to_outputs, to_bias, weight):  # type: ignore[no-untyped-def]
    # `weight` is the loss's gradient in each log-probability, which rises by 2 a with what is squashed to a
    actions = noise.shape[1]
    to_bias[:] = 0
    for n in range(len(noise)):
        for a in range(actions):
            squashed, log_std = action[n, a], outputs[n, actions + a]
            to_mean = to_action[n, a] * (1 - squashed * squashed) + np.float32(2 * weight) * squashed
            within = not (log_std < LOG_STD_MIN or log_std > LOG_STD_MAX)
            to_log_std = to_mean * math.exp(_bounded(log_std)) * noise[n, a] - np.float32(weight)
            to_outputs[n, a], to_outputs[n, actions + a] = to_mean, to_log_std if within else np.float32(0)
            to_bias[a] += to_outputs[n, a]
            to_bias[actions + a] += to_outputs[n, actions + a]


@njit(cache=True, inline="always")
def _bounded(log_std):  # type: ignore[no-untyped-def]
    least = np.float32(LOG_STD_MIN) if log_std < LOG_STD_MIN else log_std
    return np.float32(LOG_STD_MAX) if least > LOG_STD_MAX else least

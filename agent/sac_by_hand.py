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
from numpy.typing import NDArray
from torch import Tensor, nn

from preceptor.agent.networks import LOG_STD_MAX, LOG_STD_MIN, GaussianActor, TwinCritic
from preceptor.controller.passes import stop
from preceptor.controller.seen import FAST, check_shape
from preceptor.ground.device import normal

if TYPE_CHECKING:
    from preceptor.agent.methods.sac import Transitions

# The critics' shares of a batch are rounded up to multiples of so many rows: oneDNN compiles a product anew for each
# number of rows that it has not met.
_BLOCK = 16
_LOG_2, _LOG_ROOT = math.log(2), 0.5 * math.log(2 * math.pi)


def fits(actor: nn.Module, critic: nn.Module, learning: Sequence[Tensor], batch: "Transitions") -> bool:
    """Whether the functions here handle networks and batch: plain ones, float32 in main memory, and no prior.

    The parameters that learn must be all of both networks, in their order.
    """
    if not _handled(batch) or type(actor) is not GaussianActor or type(critic) is not TwinCritic:
        return False
    parameters = *actor.parameters(), *critic.parameters()
    same = [*map(id, parameters)] == [*map(id, learning)] and all(each.requires_grad for each in parameters)
    return same and _plain(parameters) and not critic.normed and len(critic.weights) > 1 and _stacked(actor.net)


def _stacked(net: nn.Module) -> bool:
    """Whether it is made of linear layers with biases, two at least, and ReLU between them."""
    if type(net) is not nn.Sequential or len(net) < 3:
        return False
    linear, between = list(net)[::2], list(net)[1::2]
    kinds = {type(each) for each in linear}, {type(each) for each in between}
    return kinds == ({nn.Linear}, {nn.ReLU}) and all(each.bias is not None for each in linear)


def _handled(batch: "Transitions") -> bool:
    parts = batch.obs, batch.action, batch.reward, batch.next_obs, batch.discount
    return batch.prior is None and _plain(parts)


def _plain(arrays: Sequence[Tensor]) -> bool:
    return all(each.dtype is torch.float32 and each.is_cpu for each in arrays)


class _Layers:
    """The layers of a network with ReLU between them, or the gradient in these layers.

    NumPy arrays are views of the tensors, for the compiled functions.

    Attributes:
        weights: Each layer's weights [I, O], tensors.
        transposed: The same [O, I].
        biases: Each layer's biases [O], arrays.
        units: Each hidden layer's outputs [B, H], tensors; of a gradient, that in the sums before ReLU.
        arrays: The same as arrays.
        first: The first layer's weights, an array [I, H].
        last: The last layer's weights in its first output, an array [H].
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor], count: int) -> None:
        self.weights, self.transposed = weights, [each.t() for each in weights]
        self.units = [torch.empty(count, len(each)) for each in biases[:-1]]
        self.arrays, self.biases = ([each.numpy() for each in kind] for kind in (self.units, biases))
        self.first, self.last = weights[0].numpy(), weights[-1][:, 0].numpy()

    def sums(self, inputs: Tensor) -> Tensor:
        """Fill in the units, but for bias and ReLU of the last, which are given."""
        for layer, units in enumerate(self.units):
            if layer:
                _rectify(self.arrays[layer - 1], self.biases[layer - 1])
            torch.mm(inputs, self.weights[layer], out=units)
            inputs = units
        return inputs

    def values(self, inputs: Tensor, values: NDArray[np.float32]) -> None:
        """Fill in the units, and the only output [B]."""
        self.sums(inputs)
        _value(self.arrays[-1], self.biases[-2], self.last, self.biases[-1], values)

    def backwards(self, inputs: Tensor, made: "_Layers") -> None:
        """Fill in the gradients of all below the last hidden layer, where that in its sums is given."""
        for layer in range(len(self.units) - 1, 0, -1):
            _product(self.units[layer - 1].t(), made.units[layer], made.weights[layer])
            torch.mm(made.units[layer], self.transposed[layer], out=made.units[layer - 1])
            stop(self.arrays[layer - 1], made.arrays[layer - 1], made.biases[layer - 1])
        _product(inputs.t(), made.units[0], made.weights[0])


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    if out.is_contiguous():
        torch.mm(left, right, out=out)
    else:  # a linear layer's weight, which torch holds as [O, I]
        torch.mm(right.t(), left.t(), out=out.t())


class ByHand:
    """Both gradients of networks that `fits`, for batches of one size.

    Args:
        actor: Its parameters are read at each call, where they were in memory at first.
        critic: Likewise.
        target: Likewise, of the critics' shapes.
        count: B.
    """

    def __init__(self, actor: GaussianActor, critic: TwinCritic, target: TwinCritic, count: int) -> None:
        self._whose, self._count = (actor, critic, target), count
        modules = [each for network in self._whose for each in network.modules()]
        # The dictionaries in which modules hold others and parameters: `parameters()` is four times as slow.
        self._parts = [each._modules for each in modules if each._modules]
        self._parameters = [each._parameters for each in modules if each._parameters]
        self._first_state = self._state()
        theirs, twins, followers = ([each.detach() for each in network.parameters()] for network in self._whose)
        self._of_actor, self._of_critic = ([torch.empty_like(each) for each in kind] for kind in (theirs, twins))
        self._actor = _policy(theirs, count)
        self._actor_made = _policy(self._of_actor, count)
        self._twins = [_twin(twins, k, count) for k in range(2)]
        self._twins_made = [_twin(self._of_critic, k, count) for k in range(2)]
        self._followers = [_twin(followers, k, count) for k in range(2)]
        actions, width = len(theirs[-1]) // 2, critic.weights[0].shape[1]
        self._inputs = torch.empty(count, width)
        self._seen, self._played = self._inputs.split([width - actions, actions], 1)
        self._outputs, self._to_outputs = torch.empty(2, count, 2 * actions)
        self._to_action = np.empty((count, actions), np.float32)
        self._values, self._wanted, self._log_prob = np.empty((2, count), np.float32), *np.empty((2, count), np.float32)
        self._rows = np.empty(count, np.int64)

    def takes(self, networks: Sequence[nn.Module], batch: "Transitions") -> bool:
        """Whether it is made for these networks, as they are now, and batches of this size and kind."""
        same = all(mine is each for mine, each in zip(self._whose, networks, strict=True))
        return same and len(batch.obs) == self._count and _handled(batch) and self._state() == self._first_state

    def _state(self) -> tuple[list[nn.Module | None], list[tuple[int, bool]]]:
        """What changes where modules are replaced, or parameters frozen or held elsewhere in memory."""
        parts = [part for held in self._parts for part in held.values()]
        parameters = [each for held in self._parameters for each in held.values() if each is not None]
        return parts, [(each.data_ptr(), each.requires_grad) for each in parameters]

    @torch.no_grad()
    def critics(
        self, batch: "Transitions", temperature: float, generator: torch.Generator
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The gradient of `SAC.critic_loss` in the critics' parameters, and the figures that the loss reports.

        The next call overwrites the gradient.

        Raises:
            ValueError: Parts of the batch are of other shapes.
        """
        check_shape((self._count,), batch.reward, batch.discount)
        check_shape(tuple(self._seen.shape), batch.obs, batch.next_obs)
        check_shape(self._to_action.shape, batch.action)
        self._sample(batch.next_obs, generator)
        for layers, values in zip(self._followers, self._values, strict=True):
            layers.values(self._inputs, values)
        given = batch.reward.numpy(), batch.discount.numpy()
        _soft_target(*given, self._values, self._log_prob, temperature, self._wanted)
        self._seen.copy_(batch.obs)
        self._played.copy_(batch.action)
        loss = total = 0.0
        for layers, made, values in zip(self._twins, self._twins_made, self._values, strict=True):
            layers.values(self._inputs, values)
            below = layers.arrays[-1], layers.last, made.arrays[-1]
            error, value = _from_errors(values, self._wanted, *below, made.last, made.biases[-1], made.biases[-2])
            loss, total = loss + error, total + value
            layers.backwards(self._inputs, made)
        return self._of_critic, {"critic_loss": torch.tensor(loss), "q": torch.tensor(total / 2)}

    @torch.no_grad()
    def actor(
        self, batch: "Transitions", temperature: float, generator: torch.Generator
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The gradient of `SAC.actor_loss` in the actor's parameters, and the figures that the loss reports.

        The next call overwrites the gradient. A sample's gradient goes through one critic only, the one with the
        smaller value, so half of the products are left out.

        Raises:
            ValueError: Observations are of another shape.
        """
        check_shape(tuple(self._seen.shape), batch.obs)
        noise = self._sample(batch.obs, generator)
        for layers, values in zip(self._twins, self._values, strict=True):
            layers.values(self._inputs, values)
        first, loss, entropy = _choose(self._values, self._log_prob, temperature, self._rows)
        self._to_actions(0, slice(-(-first // _BLOCK) * _BLOCK), slice(first))
        self._to_actions(1, slice(first // _BLOCK * _BLOCK, None), slice(first, None))
        layers, made, outputs = self._actor, self._actor_made, (self._outputs.numpy(), self._to_outputs.numpy())
        action, weight = self._played.numpy(), temperature / self._count
        _from_actions(noise, action, self._to_action, weight, LOG_STD_MIN, LOG_STD_MAX, *outputs, made.biases[-1])
        _product(layers.units[-1].t(), self._to_outputs, made.weights[-1])
        torch.mm(self._to_outputs, layers.transposed[-1], out=made.units[-1])
        stop(layers.arrays[-1], made.arrays[-1], made.biases[-2])
        layers.backwards(self._seen, made)
        return self._of_actor, {"actor_loss": torch.tensor(loss), "entropy": torch.tensor(entropy)}

    def _sample(self, obs: Tensor, generator: torch.Generator) -> NDArray[np.float32]:
        """Fill in the critics' inputs at sampled actions, and give the noise [B, A]."""
        self._seen.copy_(obs)
        layers, noise = self._actor, normal(tuple(self._played.shape), generator).numpy()
        units = layers.sums(self._seen)
        _rectify(layers.arrays[-1], layers.biases[-2])
        torch.mm(units, layers.weights[-1], out=self._outputs)
        _squash(
            self._outputs.numpy(),
            layers.biases[-1],
            noise,
            LOG_STD_MIN,
            LOG_STD_MAX,
            self._played.numpy(),
            self._log_prob,
        )
        return noise

    def _to_actions(self, twin: int, computed: slice, own: slice) -> None:
        """Fill in the gradient in the actions of those samples whose places in `_rows` are `own`, among `computed`."""
        layers, made, rows = self._twins[twin], self._twins_made[twin], self._rows[computed]
        _from_values(rows, layers.arrays[-1], layers.last, made.arrays[-1][computed])
        for layer in range(len(layers.units) - 1, 0, -1):
            above, below = (made.units[each][computed] for each in (layer, layer - 1))
            torch.mm(above, layers.transposed[layer], out=below)
            _stop(rows, layers.arrays[layer - 1], below.numpy())
        weight = layers.first[self._seen.shape[1] :]
        _add_up(self._rows[own], made.arrays[0][own], weight, self._to_action)


def _policy(parameters: Sequence[Tensor], count: int) -> _Layers:
    return _Layers([each.t() for each in parameters[::2]], parameters[1::2], count)


def _twin(parameters: Sequence[Tensor], twin: int, count: int) -> _Layers:
    half = len(parameters) // 2
    weights, biases = [each[twin] for each in parameters[:half]], [each[twin, 0] for each in parameters[half:]]
    return _Layers(weights, biases, count)


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


@njit(cache=True, inline="always")
def _second(values, n):  # type: ignore[no-untyped-def]
    # Whether the second critic's value is the smaller, or NaN
    return values[1, n] < values[0, n] or np.isnan(values[1, n])


@njit(cache=True)
def _soft_target(reward, discount, values, log_prob, temperature, wanted):  # type: ignore[no-untyped-def]
    for n in range(len(wanted)):
        value = values[int(_second(values, n)), n]
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
def _choose(values, log_prob, temperature, rows):  # type: ignore[no-untyped-def]
    # Puts samples that the first critic values less first, and returns their number, the loss and the entropy
    count, first, loss, entropy = len(rows), 0, 0.0, 0.0
    last = count
    for n in range(count):
        if _second(values, n):
            last -= 1
            rows[last] = n
        else:
            rows[first] = n
            first += 1
        loss += temperature * log_prob[n] - values[int(_second(values, n)), n]
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
def _squash(outputs, bias, noise, least, most, action, log_prob):  # type: ignore[no-untyped-def]
    # As `GaussianActor.sample`; adds the bias to outputs. Numba's cache would keep constants of another file, so the
    # range of the log-deviation is given
    actions = noise.shape[1]
    for n in range(len(noise)):
        total = -_LOG_ROOT * actions
        for a in range(actions):
            outputs[n, a] += bias[a]
            outputs[n, actions + a] += bias[actions + a]
            log_std = _bounded(outputs[n, actions + a], least, most)
            unsquashed = outputs[n, a] + math.exp(log_std) * noise[n, a]
            fades = math.expm1(-2 * abs(unsquashed))
            action[n, a] = math.copysign(fades / (2 + fades), unsquashed)
            slope = 2 * (np.float32(_LOG_2) - abs(unsquashed) - math.log1p(1 + fades))
            total -= np.float32(0.5) * noise[n, a] * noise[n, a] + log_std + slope
        log_prob[n] = total


@njit(cache=True)
def _from_actions(noise, action, to_action, weight, least, most, outputs, to_outputs, to_bias):  # type: ignore[no-untyped-def]
    # `weight` is the loss's gradient in each log-probability, which rises by 2 a with what is squashed to a
    actions = noise.shape[1]
    to_bias[:] = 0
    for n in range(len(noise)):
        for a in range(actions):
            squashed, log_std = action[n, a], outputs[n, actions + a]
            to_mean = to_action[n, a] * (1 - squashed * squashed) + np.float32(2 * weight) * squashed
            within = not (log_std < least or log_std > most)
            to_log_std = to_mean * math.exp(_bounded(log_std, least, most)) * noise[n, a] - np.float32(weight)
            to_outputs[n, a], to_outputs[n, actions + a] = to_mean, to_log_std if within else np.float32(0)
            to_bias[a] += to_outputs[n, a]
            to_bias[actions + a] += to_outputs[n, actions + a]


@njit(cache=True, inline="always")
def _bounded(log_std, least, most):  # type: ignore[no-untyped-def]
    above = np.float32(least) if log_std < least else log_std
    return np.float32(most) if above > most else above

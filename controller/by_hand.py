"""Networks over tokens without autograd: a pass forwards and backwards, and the gradient of the distillation loss.

Both are what autograd makes of the definitions, to which tests hold them, in a fraction of the time: networks are so
small that autograd's own work, and many small operations, are most of what a gradient step costs.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from preceptor.controller.network import ControllerNetwork, TokenTrunk, in_order, out_of_order, to_tensors
from preceptor.controller.passes import Weights, backwards, forwards
from preceptor.controller.seen import check_shape
from preceptor.ground.device import to_tensor

if TYPE_CHECKING:
    from preceptor.controller.distill import LabelledScenes


class NetworkPass:
    """A trunk over tokens with linear heads, once forwards and once backwards.

    Args:
        trunk: A `TokenTrunk` in main memory.
        heads: Of its features.
        tokens: uint8 [N, cells].
        others: float32 [N, P], the trunk's other inputs side by side.

    Attributes:
        outputs: float32 [N, sum of the heads' outputs], those of one head after those of another.
    """

    def __init__(self, trunk: nn.Module, heads: Sequence[nn.Linear], tokens: Tensor, others: Tensor) -> None:
        assert isinstance(trunk, TokenTrunk)
        first, second, of_heads = trunk.others, trunk.hidden, [(head.weight, head.bias) for head in heads]
        self._sizes = [len(bias) for _, bias in of_heads]
        below = trunk.get_buffer("parts"), trunk.embed.weight, trunk.cells.weight.t().contiguous()
        above = first.weight, first.bias, second.weight, second.bias, *map(torch.cat, zip(*of_heads, strict=True))
        self._parts = [part.detach() for part in (*below, *above)]
        self._weights = weights = Weights(*(part.numpy() for part in self._parts))
        if tokens.dtype != torch.uint8:
            raise TypeError("tokens are of uint8, so that none is below zero")
        self._tokens, self._others = tokens.numpy(), others.numpy()
        check_shape((len(self._tokens), len(weights.rows) // len(weights.embed)), self._tokens)
        check_shape((len(self._tokens), weights.others.shape[1]), self._others)
        outputs, self._way = forwards(self._tokens, self._others, weights)
        self.outputs = torch.as_tensor(outputs)

    def gradients(self, given: Tensor) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """The loss's gradient in the trunk's parameters, in their order, and in each head's weight and bias.

        Args:
            given: Its gradient in the outputs.
        """
        check_shape(self.outputs.shape, given)
        made = [torch.empty_like(part) for part in self._parts]  # torch aligns them with vectors
        backwards(given.numpy(), self._others, self._weights, self._way, Weights(*(part.numpy() for part in made)))
        _, embed, rows, *of_trunk, of_heads, of_biases = made
        of_each = of_heads.split(self._sizes), of_biases.split(self._sizes)
        return [embed, rows.t(), *of_trunk], list(zip(*of_each, strict=True))


def fits(network: nn.Module) -> bool:
    """Whether a network has a trunk over tokens, of float32 in main memory."""
    trunk = getattr(network, "trunk", None)
    return isinstance(trunk, TokenTrunk) and trunk.cells.weight.is_cpu and trunk.cells.weight.dtype == torch.float32


def controller_pass(network: ControllerNetwork, heads: Sequence[nn.Linear], inputs: Sequence[Tensor]) -> NetworkPass:
    """A pass through a controller that `fits` with these heads, of what `ControllerNetwork.features` takes."""
    tokens, present, *_ = inputs
    return NetworkPass(network.trunk, heads, tokens, torch.cat([present, network.condition(*inputs)], 1))


@torch.no_grad()
def distillation(
    network: ControllerNetwork, batch: "LabelledScenes", masked: bool
) -> tuple[list[Tensor | None], dict[str, Tensor | float]]:
    """As `distillation_gradients`, of a network that `fits`."""
    inputs = *to_tensors(batch.encoded), to_tensor(batch.previous)
    made = controller_pass(network, (network.option_head, network.done_head), inputs)
    logits = [in_order(part, inputs[:-1]).contiguous() for part in made.outputs.chunk(2, 1)]
    check_shape(tuple(logits[0].shape), batch.probs, batch.legal, batch.done)
    given = [torch.empty_like(part) for part in logits]
    arrays = (part.numpy() for part in (*logits, *given))
    kl, done_loss = _distil(batch.probs, batch.legal if masked else None, batch.done, *arrays)
    of_trunk, of_heads = made.gradients(torch.cat([out_of_order(part, inputs[:-1]) for part in given], 1))
    return [*of_trunk, *(one for head in of_heads for one in head)], {"kl": kl, "done_loss": done_loss}


@njit(cache=True, error_model="numpy")  # so that the mean of nothing is NaN
def _distil(labels, legal, done, option_logits, done_logits, to_options, to_ends):  # type: ignore[no-untyped-def]
    # Fills the gradients in both kinds of logits, and returns the KL and the loss of the ends
    count, options = labels.shape
    log_p, p, logits = np.empty(options), np.empty(options), np.empty(options)
    labelled, kl, done_loss = 0, 0.0, 0.0
    for n in range(count):
        labelled += labels[n].sum() > 0
    for n in range(count):
        for k in range(options):
            logits[k] = option_logits[n, k] if legal is None or legal[n, k] else -1e9
        log_softmax(logits, log_p, p)
        counted = 0.0  # of the labels; what is too improbable has no gradient
        for k in range(options):
            label = labels[n, k]
            counted += label if log_p[k] >= -30 else 0.0
            kl -= label * (max(log_p[k], -30.0) - np.log(max(label, 1e-12)))
        for k in range(options):
            change = p[k] * counted - (labels[n, k] if log_p[k] >= -30 else 0.0)
            to_options[n, k] = change / max(labelled, 1) if legal is None or legal[n, k] else 0.0
            logit = done_logits[n, k]
            fades = np.exp(-abs(logit))
            over = (1.0 if logit >= 0 else fades) / (1 + fades)
            to_ends[n, k] = (over - done[n, k]) / (count * options)
            done_loss += max(logit, 0.0) - logit * done[n, k] + np.log1p(fades)
    return kl / max(labelled, 1), done_loss / (count * options)


@njit(cache=True, inline="always")
def log_softmax(logits, log_p, p):  # type: ignore[no-untyped-def]
    """Fill in logarithms and probabilities [A] of logits [A], and return the expected log-probability."""
    highest, total, expected = logits[0], 0.0, 0.0
    for a in range(len(logits)):
        highest = max(highest, logits[a])
    for a in range(len(logits)):
        p[a] = np.exp(logits[a] - highest)
        total += p[a]
    shift = highest + np.log(total)
    for a in range(len(logits)):
        p[a] /= total
        log_p[a] = logits[a] - shift
        expected += p[a] * log_p[a]
    return expected

"""The controller's network: tokens in, a distribution over options and a termination probability per option out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from preceptor.controller.compiled import InPlay
from preceptor.controller.encoders import NUM_TOKENS, Encoded, Encoder, GridEncoder, token_features
from preceptor.controller.seen import added_up
from preceptor.ground.device import orthogonal_, to_tensor
from preceptor.ground.ranges import Count


@dataclass(frozen=True)
class TrunkConfig:
    """Size of a trunk, about 40,000 parameters by default; larger ones were no better (dev/LOG.md)."""

    embedding: Count = 4
    """Numbers per token of a map."""
    hidden: Count = 64
    """Width of both hidden layers."""


class TokenTrunk(nn.Module):
    """Two hidden layers over embedded tokens, token presence and, optionally, a one-hot condition.

    Args:
        encoder: What its inputs come from.
        condition: Number of extra inputs, zero for none.
        config: Widths.
    """

    def __init__(self, encoder: GridEncoder, condition: int, config: TrunkConfig) -> None:
        super().__init__()
        if encoder.by_role:  # saved, so that weights that were learned from colours as they are do not fit
            self.register_buffer("by_role", torch.ones(()))
        parts = torch.as_tensor(token_features())
        self.register_buffer("parts", parts, persistent=False)
        self.embed = nn.Linear(parts.shape[1], config.embedding, bias=False)
        # Two matrices instead of one over all inputs: putting the inputs side by side costs as much as the product.
        self.cells = nn.Linear(encoder.num_cells * config.embedding, config.hidden, bias=False)
        self.others = nn.Linear(NUM_TOKENS + condition, config.hidden)
        self.hidden = nn.Linear(config.hidden, config.hidden)
        both = torch.empty(config.hidden, self.cells.in_features + self.others.in_features)
        for weight in (both, self.hidden.weight):
            orthogonal_(weight, 2**0.5)
        ours, others = both.tensor_split([self.cells.in_features], dim=1)
        self.cells.weight.data = ours.t().contiguous().t()  # in memory cell by cell, as it is read
        self.others.weight.data.copy_(others)
        for layer in (self.others, self.hidden):
            nn.init.zeros_(layer.bias)
        self._in_play = InPlay(self)

    def forward(self, tokens: Tensor, present: Tensor, *_: Tensor, condition: Tensor | None = None) -> Tensor:
        """Features [N, hidden] of tokens uint8 [N, cells] and presence [N, NUM_TOKENS]; any order is for the heads."""
        if torch.is_grad_enabled() or torch.jit.is_tracing() or not self._in_play.takes(len(tokens)):
            return self.after(self.before(tokens, present, condition=condition))
        others = present if condition is None else torch.cat([present, condition], dim=1)
        return torch.as_tensor(self._in_play(tokens.numpy(), others.numpy()))

    def before(self, tokens: Tensor, present: Tensor, *_: Tensor, condition: Tensor | None = None) -> Tensor:
        """What the first layer adds up [N, hidden], to which other inputs may be added; then comes `after`."""
        others = present if condition is None else torch.cat([present, condition], dim=1)
        summed: Tensor = self.others(others)
        return summed + added_up(tokens, self.embed(self.parts), self.cells.weight)

    def after(self, summed: Tensor) -> Tensor:
        """Features [..., hidden] of what the first layer has added up."""
        return torch.relu(self.hidden(torch.relu(summed)))


class VectorTrunk(nn.Module):
    """Two hidden layers over a state vector and, optionally, a one-hot condition.

    Args:
        width: O, dimensions of an observation.
        condition: Number of extra inputs, zero for none.
        config: Widths.
    """

    def __init__(self, width: int, condition: int, config: TrunkConfig) -> None:
        super().__init__()
        self.first = nn.Linear(width + condition, config.hidden)
        self.hidden = nn.Linear(config.hidden, config.hidden)
        for layer in (self.first, self.hidden):
            orthogonal_(layer.weight, 2**0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, values: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Features [N, hidden] of encoded states [N, O]."""
        return self.after(self.before(values, condition=condition))

    def before(self, values: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """What the first layer adds up [N, hidden], to which other inputs may be added; then comes `after`."""
        summed: Tensor = self.first(values if condition is None else torch.cat([values, condition], dim=1))
        return summed

    def after(self, summed: Tensor) -> Tensor:
        """Features [..., hidden] of what the first layer has added up."""
        return torch.relu(self.hidden(torch.relu(summed)))


def make_trunk(encoder: Encoder, condition: int, config: TrunkConfig) -> nn.Module:
    """The trunk that takes what an encoder gives, and a one-hot condition of that length."""
    if isinstance(encoder, GridEncoder):
        return TokenTrunk(encoder, condition, config)
    return VectorTrunk(len(encoder.scale), condition, config)


class ControllerNetwork(nn.Module):
    """pi(o | s, previous option) and beta(s, o): which option to start, and whether one that runs is over.

    Args:
        encoder: What its inputs come from.
        num_options: K.
        config: Widths of the trunk.

    Attributes:
        width: Of the features.
        looks: Whether what it does next depends on numbers that it has computed.
    """

    looks = False

    def __init__(self, encoder: Encoder, num_options: int, config: TrunkConfig | None = None) -> None:
        super().__init__()
        self.config = config or TrunkConfig()
        self.num_options, self.width = num_options, self.config.hidden
        self.trunk = make_trunk(encoder, num_options + 1, self.config)
        self.option_head = nn.Linear(self.config.hidden, num_options)
        self.done_head = nn.Linear(self.config.hidden, num_options)
        orthogonal_(self.option_head.weight, 0.01)
        nn.init.zeros_(self.option_head.bias)

    def features(self, *inputs: Tensor) -> Tensor:
        """Hidden features [N, hidden] of the trunk's inputs and the option that ran before, int64 [N], -1 for none."""
        return self.trunk(*inputs[:-1], condition=self.condition(*inputs))

    def condition(self, *inputs: Tensor) -> Tensor:
        """The option that ran before, one-hot [N, K + 1] with none first, of what `features` takes."""
        *parts, previous = inputs
        previous = numbered(previous, parts)
        return nn.functional.one_hot(previous + 1, self.num_options + 1).to(self.option_head.weight.dtype)

    def scored(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Option logits [N, K] of what `features` takes, and the features [N, width]."""
        hidden = self.features(*inputs)
        return in_order(self.option_head(hidden), inputs[:-1]), hidden

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Option logits [N, K] and termination logits [N, K] of what `features` takes."""
        logits, hidden = self.scored(*inputs)
        return logits, in_order(self.done_head(hidden), inputs[:-1])


def in_order(outputs: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """A head's outputs [N, K, ...], one for each option, as the options of the task: it may number them by role."""
    if (order := _order(parts)) is None:
        return outputs
    return outputs.gather(1, order.view(*order.shape, *[1] * (outputs.dim() - 2)).expand_as(outputs))


def out_of_order(gradient: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """The gradient in a head's outputs, of that in what `in_order` makes of them."""
    if (order := _order(parts)) is None:
        return gradient
    order = order.view(*order.shape, *[1] * (gradient.dim() - 2)).expand_as(gradient)
    return torch.zeros_like(gradient).scatter_add_(1, order, gradient)


def numbered(option: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """Options int64 [N] of the task as a head numbers them, -1 for none."""
    if (order := _order(parts)) is None:
        return option
    return torch.where(option < 0, -1, order.gather(1, option.clamp(min=0)[:, None]).squeeze(1))


def _order(parts: Sequence[Tensor]) -> Tensor | None:
    """The order of options: the third part where colours are shown as roles; other encoders have two parts or four."""
    return parts[2] if len(parts) == 3 else None


def to_tensors(encoded: Encoded) -> tuple[Tensor, ...]:
    """Encoded observations as the trunk's inputs."""
    return tuple(to_tensor(part) for part in encoded.parts)


def mask_logits(logits: Tensor, legal: Tensor | None) -> Tensor:
    """Logits [N, K] with illegal options so low that their probability is exactly zero; unchanged if `legal` is None.

    Finite, because zero times minus infinity would poison entropies and divergences.
    """
    return logits if legal is None else logits.masked_fill(~legal, -1e9)

"""Low levels learn what scripted skills would do: loss L2 with soft targets, and its gradient."""

import torch
from torch import Tensor

from preceptor.agent import by_hand
from preceptor.agent.losses import weighted_regression
from preceptor.agent.networks import LowNetwork
from preceptor.controller.distill import Gradients


def imitation_loss(low: LowNetwork, parts: tuple[Tensor, ...], targets: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of what each option does, averaged over those that count.

    Args:
        low: Imitates.
        parts: What its trunk takes, each [N, ...].
        targets: Distributions over actions, float32 [N, K, A]; of a flat policy K is 1.
        mask: Which of them count, bool [N, K].
    """
    log_probs = low.all_options(*parts)[0].log_softmax(2)
    return (weighted_regression(log_probs, targets) * mask).sum() / mask.sum().clamp(min=1)


def imitation_gradients(low: LowNetwork, parts: tuple[Tensor, ...], targets: Tensor, mask: Tensor) -> Gradients:
    """The gradient of that loss in the low level's parameters, None in those of its values, and the loss."""
    if by_hand.fits(low):
        gradients, value = by_hand.imitation(low, parts, targets, mask)
        return gradients, {"skill_loss": value}
    loss = imitation_loss(low, parts, targets, mask)
    gradients = list(torch.autograd.grad(loss, list(low.parameters()), allow_unused=True))
    return gradients, {"skill_loss": loss.detach()}

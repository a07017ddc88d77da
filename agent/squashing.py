"""Densities of Gaussians that tanh squashes into [-1, 1]."""

import math

import torch
from torch import Tensor
from torch.nn import functional

# Stored actions at the edge of the box have no finite pre-image under tanh in float32.
_INSIDE = 1.0 - 1e-6


def log_tanh_slope(unsquashed: Tensor) -> Tensor:
    """log(1 - tanh(u)^2) without cancellation: 2 (log 2 - u - softplus(-2 u))."""
    return 2.0 * (math.log(2.0) - unsquashed - functional.softplus(-2.0 * unsquashed))


def squashed_log_prob(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """Log-probability [B] of actions [B, A] in [-1, 1] under a squashed Gaussian (Haarnoja et al., 2018, eq. 21)."""
    unsquashed = torch.atanh(action.clamp(-_INSIDE, _INSIDE))
    noise = (unsquashed - mean) * (-log_std).exp()
    log_prob = (-0.5 * noise.square() - log_std - log_tanh_slope(unsquashed)).sum(-1)
    return log_prob - 0.5 * math.log(2 * math.pi) * mean.shape[-1]

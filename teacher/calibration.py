"""How far a model's probabilities are to be believed, and the temperature that makes them so."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preceptor.ground.device import to_tensor


def fit_temperature(logits: Tensor, probs: NDArray[np.float32]) -> float:
    """Temperature that minimises cross-entropy to the labels on a hold-out (Guo et al., 2017, section 4.2).

    Args:
        logits: Masked logits [N, K].
        probs: Target distributions [N, K]; rows of zeros are ignored.
    """
    labels = to_tensor(probs)
    temperatures = torch.logspace(-1, 1, 81)
    losses = [-(labels * torch.log_softmax(logits / t, 1).clamp(min=-30.0)).sum().item() for t in temperatures.tolist()]
    return float(temperatures[int(np.argmin(losses))])


def expected_calibration_error(probs: NDArray[np.float32], truth: NDArray[np.int64], bins: int = 15) -> float:
    """ECE of predicted distributions [N, K] against true indices [N], equal-width bins (Guo et al., 2017)."""
    confidence, correct = probs.max(1), probs.argmax(1) == truth
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[which == b].mean() - correct[which == b].mean()) * (which == b).sum() for b in set(which)]
    return float(sum(gaps) / len(truth))

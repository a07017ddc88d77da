"""Label -> controller: soft cross-entropy on labelled scenes, calibration on a hold-out, honest agreement."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from controller.encoders import Encoded
from controller.network import ControllerNetwork, mask_logits, to_tensors
from ground.device import to_numpy, to_tensor
from teacher.calibration import expected_calibration_error


@dataclass(frozen=True)
class LabelledScenes:
    """A batch of observations with what the teacher said of them.

    Attributes:
        encoded: Network inputs, N of them.
        previous: int64 [N], the option that ran before, -1 for none.
        legal: bool [N, K].
        probs: float32 [N, K], the teacher's distribution; all zero where the teacher abstained.
        done: bool [N, K], `Task.option_done` of every option here: the target of the termination head.
    """

    encoded: Encoded
    previous: NDArray[np.int64]
    legal: NDArray[np.bool_]
    probs: NDArray[np.float32]
    done: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.previous)

    def __getitem__(self, rows: NDArray[np.int64]) -> "LabelledScenes":
        return LabelledScenes(
            self.encoded[rows], self.previous[rows], self.legal[rows], self.probs[rows], self.done[rows]
        )


def distillation_loss(
    network: ControllerNetwork, batch: LabelledScenes, masked: bool
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy to the soft labels plus binary cross-entropy of the termination head.

    Kullback-Leibler divergence is cross-entropy minus the labels' own entropy, so the gradient is that of
    KL(teacher || controller). A controller that will choose among all options (`masked` false) learns from the labels
    what is legal, too; one that is masked spends nothing on it. Rows on which the teacher abstained train the
    termination head only.
    """
    option_logits, done_logits = network(*to_tensors(batch.encoded), to_tensor(batch.previous))
    labels = to_tensor(batch.probs)
    legal = to_tensor(batch.legal) if masked else None
    log_probs = torch.log_softmax(mask_logits(option_logits, legal), dim=1)
    cross_entropy = -(labels * log_probs.clamp(min=-30.0)).sum(1)
    labelled = labels.sum(1) > 0
    option_loss = cross_entropy.sum() / labelled.sum().clamp(min=1)
    done_loss = nn.functional.binary_cross_entropy_with_logits(done_logits, to_tensor(batch.done).float())
    entropy = -(labels * labels.clamp(min=1e-12).log()).sum(1)
    kl = ((cross_entropy - entropy) * labelled).sum() / labelled.sum().clamp(min=1)
    return option_loss + done_loss, {"kl": float(kl.detach()), "done_loss": float(done_loss.detach())}


@torch.no_grad()
def option_logits(network: ControllerNetwork, scenes: LabelledScenes) -> Tensor:
    """Masked option logits [N, K] of labelled scenes."""
    logits, _ = network(*to_tensors(scenes.encoded), to_tensor(scenes.previous))
    return mask_logits(logits, to_tensor(scenes.legal))


def judge(network: ControllerNetwork, scenes: LabelledScenes, truth: NDArray[np.int64], temperature: float) -> dict:
    """Agreement with the teacher and with the ground-truth script, KL to the teacher, and ECE, on held-out scenes."""
    logits = option_logits(network, scenes)
    probs = to_numpy(torch.softmax(logits / temperature, 1))
    labelled = scenes.probs.sum(1) > 0
    labels = scenes.probs[labelled]
    gap = np.log(np.maximum(labels, 1e-12)) - np.log(np.maximum(probs[labelled], 1e-12))
    return {
        "agreement": float((probs[labelled].argmax(1) == labels.argmax(1)).mean()),
        "truth_agreement": float((probs.argmax(1) == truth).mean()),
        "kl": float((labels * gap).sum(1).mean()),
        "ece": expected_calibration_error(probs[labelled], labels.argmax(1)),
    }

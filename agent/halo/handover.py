"""From HALO to whoever comes after: the posterior over options becomes a controller, the hinge of all methods.

The controller sees the whole observation and chooses among legal options, so that IHAC, PPO and HIRO start from it as
from one that a language model taught: `--controller RUN`.
"""

from typing import Any

import numpy as np
import torch

from agent.data.recording import Recording
from agent.halo.chain import Floats
from controller.distill import LabelledScenes, distillation_loss, judge, option_logits
from controller.encoders import encoder_of
from controller.network import ControllerNetwork
from controller.roles import Controller
from envs.task import Task
from ground.device import to_device
from teacher.calibration import fit_temperature

_STEPS, _MINIBATCH, _LEARNING_RATE = 1_500, 256, 2e-3  # as of distillation by DAgger, which sees twice as many scenes
_FORGET_PREVIOUS = 0.5  # share of scenes on which the previous option is hidden
_HOLD_OUT = 16  # one episode in so many is kept for calibration


def distil(task: Task, recording: Recording, gamma: Floats, seed: int, facts: dict[str, Any]) -> Controller:
    """A controller that says of each observation what the posterior says.

    Args:
        task: What was demonstrated.
        recording: N demonstrations.
        gamma: Posterior over the options of each step, [N, T, K].
        seed: Draws weights and minibatches.
        facts: Provenance for the checkpoint.
    """
    scenes, episode = _labelled(task, recording, gamma)
    truth = recording.option[recording.acted]
    held_out = episode % _HOLD_OUT == _HOLD_OUT - 1
    training, rest = scenes[np.flatnonzero(~held_out)], scenes[np.flatnonzero(held_out)]
    rng = np.random.default_rng([seed, 2])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = to_device(ControllerNetwork(encoder_of(task), len(task.options)))
    optimizer = torch.optim.Adam(network.parameters(), _LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, _STEPS)
    for _ in range(_STEPS):
        batch = training[rng.integers(len(training), size=_MINIBATCH)]
        hidden = rng.random(_MINIBATCH) < _FORGET_PREVIOUS
        previous = np.where(hidden, -1, batch.previous)
        batch = LabelledScenes(batch.encoded, previous, batch.legal, batch.probs, batch.done)
        loss, _ = distillation_loss(network, batch, masked=True)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(network.parameters()), 1.0)
        optimizer.step()
        schedule.step()
    if not len(rest):
        return Controller(task, network, 1.0, facts)
    temperature = fit_temperature(option_logits(network, rest), rest.probs)
    return Controller(task, network, temperature, facts | judge(network, rest, truth[held_out], temperature))


def _labelled(task: Task, recording: Recording, gamma: Floats) -> tuple[LabelledScenes, np.ndarray]:
    """Every step at which something was done, with the posterior among what was legal there; and its episode [M]."""
    acted = recording.acted
    obs = recording.obs[acted]
    options = gamma.argmax(-1)
    before = np.concatenate([np.full((len(options), 1), -1), options[:, :-1]], 1)[acted]
    legal = task.legal(obs)
    probs = gamma[acted] * legal
    total = probs.sum(1, keepdims=True)
    probs = np.divide(probs, total, out=np.zeros_like(probs), where=total > 0).astype(np.float32)
    done = np.stack([task.option_done(obs, np.full(len(obs), k)) for k in range(len(task.options))], 1)
    return LabelledScenes(encoder_of(task)(obs), before, legal, probs, done), np.nonzero(acted)[0]

"""From HALO to other methods: the posterior over options becomes a controller.

The controller sees the whole observation and chooses among legal options, so that IHAC and HIRO start from it as from
one that a language model taught: `--controller RUN`.
"""

from typing import Any

import numpy as np
import torch

from preceptor.agent.data.recording import Recording
from preceptor.agent.halo.posterior import Floats
from preceptor.controller.distill import DistilConfig, Distillation, calibrate, distillation_gradients, scenes_of
from preceptor.controller.encoders import encoder_of
from preceptor.controller.roles import Controller, network_of
from preceptor.envs.task import Task
from preceptor.ground.device import to_device

_STEPS = 1_500  # gradient steps, as in distillation by DAgger, which sees twice as many scenes
_HOLD_OUT = 16  # one episode in so many is held out for calibration


def distil(task: Task, recording: Recording, gamma: Floats, seed: int, facts: dict[str, Any]) -> Controller:
    """A controller that says of each observation what the posterior says, among what is legal there.

    Args:
        task: What was demonstrated.
        recording: N demonstrations.
        gamma: Posterior over the options of each step, [N, T, K].
        seed: Draws weights and minibatches.
        facts: Provenance for the checkpoint.
    """
    acted, options = recording.acted, gamma.argmax(-1)
    before = np.concatenate([np.full((len(options), 1), -1), options[:, :-1]], 1)[acted]
    obs, truth = recording.obs[acted], recording.option[acted]
    legal = task.legal(obs)
    probs = gamma[acted] * legal
    total = probs.sum(1, keepdims=True)
    probs = np.divide(probs, total, out=np.zeros_like(probs), where=total > 0).astype(np.float32)
    scenes, held_out = scenes_of(task, obs, before, probs, legal), np.nonzero(acted)[0] % _HOLD_OUT == _HOLD_OUT - 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = to_device(network_of(task))
    distillation = Distillation(
        encoder_of(task),
        [network],
        lambda batch: distillation_gradients(network, batch, masked=True),
        DistilConfig(mirror=False),
        np.random.default_rng([seed, 2]),
    )
    distillation.add(scenes[np.flatnonzero(~held_out)])
    for step in range(_STEPS):
        distillation.train(1, step / _STEPS)
    rest = scenes[np.flatnonzero(held_out)]
    if not len(rest):
        return Controller(task, network, 1.0, facts)
    temperature, figures = calibrate(network, rest, rest, truth[held_out])
    if (truth < 0).any():  # how far it agrees with the truth is not known
        del figures["truth_agreement"]
    return Controller(task, network, temperature, facts | figures)

"""PPO for several runs at once: their networks' weights lie side by side, so that one product serves all of them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.func import vmap

from preceptor.agent.methods.ppo import PPO, PolicyBatch
from preceptor.agent.networks import LowNetwork
from preceptor.controller.network import TokenTrunk
from preceptor.ground.optim import FusedAdam


class StackedPPO:
    """What S learners do, each with its own samples.

    Rows of arrays [S B, ...] belong to the first learner, then to the second, and so on.

    Args:
        learners: Of networks with one option over tokens, alike in all but their weights, after the same number of
            steps. They learn where `hand_back` is called.
    """

    def __init__(self, learners: Sequence[PPO]) -> None:
        self.learners, self.config = learners, learners[0].config
        network = learners[0].network
        assert isinstance(network, LowNetwork)
        assert isinstance(network.trunk, TokenTrunk)
        assert network.num_options == 1
        self.head, self._parts = network.head, network.trunk.get_buffer("parts")
        each = [dict(learner.network.named_parameters()) for learner in learners]
        self._weights = {name: torch.stack([one[name].detach() for one in each]).requires_grad_() for name in each[0]}
        self._optimizer = FusedAdam(self._weights.values(), self.config.lr, eps=learners[0].optimizer.defaults["eps"])
        for stacked, own in self._in_both():
            stacked.copy_(torch.stack(own) if stacked.dim() else own[0])

    def _in_both(self) -> list[tuple[Tensor, list[Tensor]]]:
        """Each array of the optimiser with those of the learners: moments, and one count of steps for all."""
        found = {}
        for k, parameter in enumerate(self._optimizer.parameters):
            for name, stacked in self._optimizer.state[parameter].items():
                own = [learner.optimizer.state[learner.optimizer.parameters[k]][name] for learner in self.learners]
                found[id(stacked)] = stacked, own
        return list(found.values())

    @torch.no_grad()
    def hand_back(self) -> None:
        """Give the learners their weights and what their optimisers know."""
        networks = [list(learner.network.parameters()) for learner in self.learners]
        weights = zip(self._weights.values(), map(list, zip(*networks, strict=True)), strict=True)
        for stacked, own in (*weights, *self._in_both()):
            torch._foreach_copy_(own, list(stacked) if stacked.dim() else [stacked] * len(own))

    def scale_rates(self, share: float) -> dict[str, float]:
        """See `Learner.scale_rates`."""
        rates = [learner.scale_rates(share) for learner in self.learners]
        self._optimizer.scale_rate(share)
        return rates[0]

    def __call__(self, tokens: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [S B, P] and values [S B], as `LowNetwork` has them."""
        runs, weights = len(self.learners), self._weights
        layer: Callable[[str, Tensor], Tensor] = partial(_linear, weights)
        table = self._parts @ weights["trunk.embed.weight"].transpose(1, 2)  # [S, kinds, E]
        first = torch.arange(runs, device=tokens.device)[:, None] * table.shape[1]  # row of each one's table
        rows = (tokens.view(runs, -1) + first).flatten()
        embedded = table.flatten(0, 1).index_select(0, rows).view(runs, len(tokens) // runs, -1)
        cells = embedded @ weights["trunk.cells.weight"].transpose(1, 2)
        summed = cells + layer("trunk.others", present.view(runs, -1, present.shape[1]))
        hidden = torch.relu(layer("trunk.hidden", torch.relu(summed)))
        return layer("action_head", hidden).flatten(0, 1), layer("value_head", hidden).flatten()

    def pass_over(self, batch: PolicyBatch, order: Tensor) -> dict[str, Tensor]:
        """Gradient steps on minibatches of all samples; the means [S] of each one's terms.

        Args:
            batch: [S B], in any order.
            order: Numbers [S, B] of each one's samples.
        """
        terms: list[Mapping[str, Tensor]] = []
        for rows in order.tensor_split(max(1, round(order.shape[1] / self.config.minibatch)), dim=1):
            gradients, info = self._gradients(batch.select(rows.flatten()))
            self._optimizer.follow(gradients)
            terms.append(info)
        return {name: torch.stack([info[name] for info in terms]).mean(0) for name in terms[0]}

    def _gradients(self, batch: PolicyBatch) -> tuple[list[Tensor], Mapping[str, Tensor]]:
        """Of each one's loss, clipped, and the terms [S]."""
        columns = batch.action, batch.behaviour_logprob, batch.advantage, batch.returns
        by_learner = (each.unflatten(0, (len(self.learners), -1)) for each in (*self(*batch.inputs[:2]), *columns))
        loss, terms = vmap(self._loss)(*by_learner)
        gradients = torch.autograd.grad(loss.sum(), list(self._weights.values()))
        squares = torch.stack([each.flatten(1).square().sum(1) for each in gradients]).sum(0)
        scale = (self.config.max_grad_norm / (squares.sqrt() + 1e-6)).clamp(max=1)
        return [each * scale.view(-1, *[1] * (each.dim() - 1)) for each in gradients], terms

    def _loss(self, outputs: Tensor, value: Tensor, *columns: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.learners[0].loss_of(outputs, value, PolicyBatch((), *columns))


def _linear(weights: Mapping[str, Tensor], name: str, inputs: Tensor) -> Tensor:
    """Each one's layer of that name, of inputs [S, B, I]."""
    return torch.baddbmm(weights[f"{name}.bias"][:, None], inputs, weights[f"{name}.weight"].transpose(1, 2))

"""Gradient steps: a fused Adam without bookkeeping, the precision of matrix products, and targets that follow."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from preceptor.ground import adam


class FusedAdam(torch.optim.Adam):
    """Adam (Kingma and Ba, 2015), fused, without the bookkeeping of `step` and `zero_grad`.

    Float32 in main memory goes through `adam.step`, everything else through torch's fused function.

    Args:
        parameters: What learns.
        lr: Learning rate of all.
        eps: Added to the root of the second moment.
    """

    _rate: Tensor  # of learning, where parameters are, for steps that are recorded (`Repeated`)

    def __init__(self, parameters: Iterable[Tensor], lr: float, eps: float = 1e-8) -> None:
        super().__init__(parameters, lr, eps=eps, fused=True)
        (group,) = self.param_groups
        for parameter in group["params"]:
            if torch.empty_like(parameter).stride() != parameter.stride():
                raise ValueError("a parameter with gaps in memory cannot be learned")  # fused steps write into them
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self.state[parameter] = {"step": parameter.new_zeros(()), **moments}
        self._count_together()
        self._place_rate()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        super().load_state_dict(state_dict)
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            state.setdefault("step", parameter.new_zeros(()))  # stock Adam has none of what has never learned
            for name in ("exp_avg", "exp_avg_sq"):  # in memory as the parameter is, wherever the state was
                moment = torch.zeros_like(parameter)
                state[name] = moment.copy_(state[name]) if name in state else moment
        self._count_together()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be a copy, which brings no rate, or what was saved."""
        super().__setstate__(state)
        self._place_rate()

    def _place_rate(self) -> None:
        rate = self.param_groups[0]["lr"]
        if not hasattr(self, "_rate"):
            self._rate = self.parameters[0].new_tensor(rate)
        self._rate.fill_(rate)

    def _count_together(self) -> None:
        """As long as all parameters have learned at every step, they share one count of steps."""
        states = list(self.state.values())
        if all(torch.equal(state["step"], states[0]["step"]) for state in states):
            for state in states:
                state["step"] = states[0]["step"]

    @property
    def parameters(self) -> list[Tensor]:
        """What learns."""
        return self.param_groups[0]["params"]  # type: ignore[no-any-return]

    def scale_rate(self, share: float) -> float:
        """Set the learning rate to this share of its initial value; what it is now, to be logged."""
        self.param_groups[0]["lr"] = rate = float(self.defaults["lr"] * share)
        self._place_rate()
        return rate

    def minimize(self, loss: Tensor) -> None:
        """One step against the gradient of a loss; nothing else gets a gradient of it."""
        self.follow(torch.autograd.grad(loss, self.parameters))

    @torch.no_grad()
    def follow(self, gradients: Sequence[Tensor | None], max_norm: float | None = None) -> None:
        """One step against gradients, None where a parameter has none and stays as it is.

        They are scaled down to `max_norm`, if that is given, where together they are longer.
        """
        (group,) = self.param_groups
        learning, resting = [], []
        for parameter, gradient in zip(group["params"], gradients, strict=True):
            state = self.state[parameter]
            if gradient is None:
                resting.append(state)
                continue
            mean, square, kind = state["exp_avg"], state["exp_avg_sq"], _kind(parameter)
            if not (_kind(gradient)[:-1] == kind[:-1] and _kind(mean) == _kind(square) == kind):
                raise ValueError("gradients or moments are not of the parameters' shapes and kinds")
            if gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)
            learning.append((parameter, gradient, mean, square, state["step"]))
        if not learning:
            return
        parameters, given, means, squares, steps = map(list, zip(*learning, strict=True))
        counts = {id(step): step for step in steps}
        for state in resting:
            if id(state["step"]) in counts:  # what rests goes on with a count of its own
                state["step"] = state["step"].clone()
        for step in counts.values():  # of which there is one as a rule
            step.add_(1)
        if all(each.dtype is torch.float32 and each.is_cpu for each in parameters):
            steps_of = {key: step.item() for key, step in counts.items()}
            so_far = [steps_of[id(step)] for step in steps]
            adam.step(parameters, given, means, squares, so_far, group["lr"], group["betas"], group["eps"], max_norm)
        else:
            if max_norm is not None:
                norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(given)))
                given = list(torch._foreach_div(given, ((norm + 1e-6) / max_norm).clamp(min=1)))
            torch._fused_adam_(
                parameters,
                given,
                means,
                squares,
                [],
                steps,
                lr=self._rate,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=0.0,
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )
        torch.autograd.graph.increment_version(parameters)  # which neither does


def _kind(array: Tensor) -> tuple[Any, ...]:
    """What arrays of one step have in common: fused steps go through memory, and look at nothing."""
    return array.shape, array.dtype, array.device, array.stride()


def fast_precision(hidden: tuple[int, ...], wanted: str | None = None) -> str:
    """The precision of products that is fastest for layers of these widths; small ones do not repay the way to oneDNN.

    Where float32 is `wanted` and bfloat16 does not round, wide layers go to oneDNN all the same: MKL, which multiplies
    otherwise, uses half of the vector units of AMD's processors with AVX-512.
    """
    if wanted == "bfloat16" or max(hidden, default=0) < 256:
        return wanted or "float32"
    return "float32" if wanted and bfloat16_rounds() else "bfloat16"


def bfloat16_rounds() -> bool:
    """Whether products in bfloat16 differ from those in float32 on this processor, as they do where it has tiles."""
    between = torch.full((256, 256), 1 + 2**-10, device="cpu")  # which lies between two numbers of bfloat16
    with products_in("bfloat16"):
        return not torch.equal(between @ torch.eye(256, device="cpu"), between)


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Within it, products of float32 matrices are computed in that precision.

    Under `bfloat16` oneDNN may round the factors, and sums in float32, which is three to four times faster where the
    processor has tiles (AMX). Elsewhere it does not round: with AVX-512 oneDNN multiplies in float32, and without it
    nothing changes. Whatever is stored stays float32.
    """
    switch = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # the module is replaced when it is imported
    before, switch.fp32_precision = switch.fp32_precision, "bf16" if precision == "bfloat16" else "ieee"
    try:
        yield
    finally:
        switch.fp32_precision = before


@torch.no_grad()
def polyak(target: nn.Module, source: nn.Module, share: float) -> None:
    """Move the target's parameters towards the source's by `share`."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), share)

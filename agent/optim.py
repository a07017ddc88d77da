"""Gradient steps: a fused Adam without bookkeeping, the precision of matrix products, and targets that follow."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class FusedAdam(torch.optim.Adam):
    """Adam on parameters that all learn at every step: fused, without the bookkeeping of `step` and `zero_grad`.

    Args:
        parameters: What learns.
        lr: Learning rate of all.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        super().__init__(parameters, lr, fused=True)
        (group,) = self.param_groups
        count = group["params"][0].new_zeros(())  # of steps, one for all
        for parameter in group["params"]:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self.state[parameter] = {"step": count, **moments}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; there is one count of steps again."""
        super().load_state_dict(state_dict)
        states = list(self.state.values())
        for state in states:
            state["step"] = states[0]["step"]

    @torch.no_grad()
    def minimize(self, loss: Tensor) -> None:
        """One step against the gradient of a loss; nothing else gets a gradient of it."""
        (group,) = self.param_groups
        parameters = group["params"]
        gradients = torch.autograd.grad(loss, parameters)
        states = [self.state[parameter] for parameter in parameters]
        count = states[0]["step"]
        count += 1
        torch._fused_adam_(
            parameters,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [count] * len(parameters),
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


def fast_precision(hidden: tuple[int, ...]) -> str:
    """The precision of products that is faster for layers of these widths: small ones do not repay the rounding."""
    return "bfloat16" if max(hidden, default=0) >= 256 else "float32"


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Within it, products of float32 matrices are computed in that precision.

    Under `bfloat16` oneDNN rounds the factors and sums in float32, which is three to four times faster where the
    processor has instructions for it, and changes nothing elsewhere. Whatever is stored stays float32.
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

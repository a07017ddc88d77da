"""Where networks are: arrays go in through `to_tensor`, come out through `to_numpy`, and no algorithm names a device.

Environments, stores and random numbers stay in main memory, on whatever device the networks are: a run draws the same
noise everywhere, and its checkpoint goes on elsewhere. Only what draws from `chance` does not.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from preceptor.ground.errors import UserError

Noise = tuple[Tensor, torch.Generator | None]  # an array, and what fills it

_device = torch.device("cpu")
_recorded = False
_listed: list[Noise] | None = None
_given: Iterator[Tensor] | None = None

Network = TypeVar("Network", bound=nn.Module)


def use_device(name: str, recorded: bool = False) -> None:
    """Make all networks from now on there: cpu, cuda or cuda:1; auto is the GPU where there is one.

    On a GPU, work that is the same each time (`Repeated`) is recorded if so said.

    Raises:
        UserError: There is no such device, or it has no memory left.
    """
    global _device, _recorded
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UserError(f"--device {name} is not known.", "--device cpu, cuda, cuda:1 and so on, or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"Networks cannot be on {name}: {reason}.", "--device cpu") from error
    _device, _recorded = torch.device(name), recorded
    if _device.index is not None:  # streams and graphs are of the current one
        torch.cuda.set_device(_device)


def device() -> torch.device:
    """Where networks are made."""
    return _device


def records() -> bool:
    """Whether work that is the same each time is recorded."""
    return _recorded and _device.type == "cuda"


def chance() -> torch.Generator:
    """Where random numbers come from that are drawn where networks are; a checkpoint of it goes on there alone."""
    on_gpu = _device.type == "cuda"
    return torch.cuda.default_generators[torch.cuda.current_device()] if on_gpu else torch.default_generator


def to_device(network: Network) -> Network:
    """A network that was made in main memory, moved to where networks are, before an optimiser takes hold of it."""
    return network.to(_device)


def orthogonal_(weight: Tensor, gain: float = 1.0) -> None:
    """Fill a matrix with an orthogonal one, in one thread: on more the decomposition rounds otherwise, and a run would
    depend on `--threads` from its first weights on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        nn.init.orthogonal_(weight, gain)
    finally:
        torch.set_num_threads(threads)


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Restore a network from what `state_dict` gave.

    Raises:
        ValueError: Numbers are NaN, infinite or of another precision, which torch would take.
        RuntimeError: Names or shapes are others.
    """
    own = network.state_dict()
    for name, weight in weights.items():
        if name in own and weight.dtype != own[name].dtype:
            raise ValueError(f"{name} holds numbers of type {weight.dtype}, not {own[name].dtype}")
        if not weight.isfinite().all():
            raise ValueError(f"{name} holds numbers that are NaN or infinite")
    network.load_state_dict(weights)


def to_tensor(values: NDArray[Any] | Tensor | float) -> Tensor:
    """An array, a tensor, or a number as a tensor where networks are; in main memory they share it."""
    return torch.as_tensor(values).to(_device)


def to_numpy(values: Tensor) -> NDArray[Any]:
    """A tensor without gradient as an array; in main memory they share it."""
    numbers: NDArray[Any] = values.cpu().numpy()
    return numbers


def normal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers where networks are, from a generator in main memory."""
    if _given is not None:
        return next(_given)
    noise = torch.empty(shape).normal_(generator=generator).to(_device)
    if _listed is not None:
        _listed.append((noise, generator))
    return noise


@contextmanager
def noise_listed() -> Iterator[list[Noise]]:
    """Within it, what `normal` gives is listed, to be filled in again whenever that work is repeated."""
    global _listed
    noises: list[Noise] = []
    _listed = noises
    try:
        yield noises
    finally:
        _listed = None


@contextmanager
def noise_given(noises: list[Noise]) -> Iterator[None]:
    """Within it, `normal` draws nothing, and gives these arrays, in their order."""
    global _given
    _given = iter([noise for noise, _ in noises])
    try:
        yield
    finally:
        _given = None

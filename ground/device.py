"""Where networks are: arrays go in through `to_tensor`, come out through `to_numpy`, and no algorithm names a device.

Environments, stores and random numbers stay in main memory, on whatever device the networks are: a run draws the same
noise everywhere, and its checkpoint goes on elsewhere.
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
_left_open: list[Noise] | None = None

Network = TypeVar("Network", bound=nn.Module)


def use_device(name: str) -> None:
    """Make all networks from now on there: cpu, cuda or cuda:1; auto is the GPU where there is one.

    Raises:
        UserError: There is no such device, or it has no memory left.
    """
    global _device
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UserError(f"--device {name} is not known.", "--device cpu, cuda, cuda:1 and so on, or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"Networks cannot be on {name}: {reason}.", "--device cpu") from error
    _device = torch.device(name)


def device() -> torch.device:
    """Where networks are made."""
    return _device


def chance() -> torch.Generator:
    """Where random numbers come from that are drawn where networks are; a checkpoint of it goes on there alone."""
    if _device.type == "cpu":
        return torch.default_generator
    torch.cuda.init()
    return torch.cuda.default_generators[torch.cuda.current_device() if _device.index is None else _device.index]


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


def to_tensor(values: NDArray[Any]) -> Tensor:
    """An array as a tensor where networks are; in main memory they share it."""
    return torch.from_numpy(values).to(_device)


def to_numpy(values: Tensor) -> NDArray[Any]:
    """A tensor without gradient as an array; in main memory they share it."""
    numbers: NDArray[Any] = values.cpu().numpy()
    return numbers


def normal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers where networks are, from a generator in main memory."""
    if _left_open is None:
        return torch.empty(shape).normal_(generator=generator).to(_device)
    noise = torch.empty(shape, device=_device)
    _left_open.append((noise, generator))
    return noise


@contextmanager
def noise_left_open() -> Iterator[list[Noise]]:
    """Within it, `normal` draws nothing, and lists what has to be filled in whenever that work is repeated."""
    global _left_open
    noises: list[Noise] = []
    _left_open = noises
    try:
        yield noises
    finally:
        _left_open = None

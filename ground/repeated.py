"""Work that is the same each time, as one CUDA graph: most kernels here take less time than launching them does."""

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import torch
from torch import Tensor

from preceptor.ground.device import device, noise_left_open

Made = TypeVar("Made")

_BEFORE: Final = 3  # calls in which libraries and compilers make themselves ready, which cannot be recorded


class Repeated(Generic[Made]):
    """A function of tensors, which a GPU records and then replays as a whole; elsewhere it is called each time.

    What else it reads and writes stays where it is in memory. Nothing but `normal` draws random numbers in main memory,
    and no number that is computed decides what is done next.

    Args:
        function: Gives tensors, which the next call may overwrite.
    """

    def __init__(self, function: Callable[..., Made]) -> None:
        self._function, self._called = function, 0
        self._graph: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """What is copied: a graph is of this one's memory."""
        return {"_function": self._function, "_called": 0, "_graph": None}

    def __call__(self, *inputs: Tensor) -> Made:
        """What the function gives of inputs, always of the same shapes."""
        if device().type != "cuda":
            return self._function(*inputs)
        if self._graph is None and self._called < _BEFORE:
            self._called += 1
            return self._on_a_side_stream(inputs)
        if self._graph is None:
            self._record(inputs)
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        for noise, generator in self._noises:
            noise.copy_(torch.empty(noise.shape).normal_(generator=generator))
        self._graph.replay()
        return self._made

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = [each.clone() for each in inputs]
        self._graph = torch.cuda.CUDAGraph()
        # In other threads, and by Numba, memory may be asked for meanwhile.
        with noise_left_open() as self._noises, torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._made = self._function(*self._inputs)

    def _on_a_side_stream(self, inputs: tuple[Tensor, ...]) -> Made:
        """Call it as it will be recorded (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs)."""
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            made = self._function(*inputs)
        here.wait_stream(aside)
        return made

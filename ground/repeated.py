"""Work that is the same each time, as one CUDA graph: most kernels here take less time than launching them does."""

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import torch
from numba import cuda
from torch import Tensor

from preceptor.ground.device import device

Made = TypeVar("Made")

_BEFORE: Final = 3  # calls, in which libraries and compilers make themselves ready, which cannot be recorded


class Repeated(Generic[Made]):
    """A function without arguments, which a GPU records and then replays as a whole; elsewhere it is called each time.

    All that it reads and writes stays where it is in memory, and no number that it computes decides what it does next.

    Args:
        function: Gives tensors, which the next call may overwrite.
    """

    def __init__(self, function: Callable[[], Made]) -> None:
        self._function, self._called = function, 0
        self._graph: Any = None

    def __call__(self) -> Made:
        """What the function gives."""
        if device().type != "cuda":
            return self._function()
        if self._graph is None and self._called < _BEFORE:
            self._called += 1
            return self._on_a_side_stream()
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):  # Numba allocates in others
                self._made = self._function()
        self._graph.replay()
        return self._made

    def _on_a_side_stream(self) -> Made:
        """Call it as it will be recorded (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs)."""
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            made = self._function()
        here.wait_stream(aside)
        return made


def numba_stream() -> Any:
    """The stream on which torch works now, for kernels of Numba."""
    return cuda.external_stream(torch.cuda.current_stream().cuda_stream) if device().type == "cuda" else 0


def for_numba(tensor: Tensor) -> Any:
    """A tensor as an array for kernels of Numba, which shares its memory."""
    return cuda.as_cuda_array(tensor) if tensor.is_cuda else tensor.numpy()

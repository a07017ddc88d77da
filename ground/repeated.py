"""Work that is the same each time, as one CUDA graph: most kernels here take less time than launching them does."""

import gc
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from preceptor.ground.device import noise_given, noise_listed, records, to_tensor

Made = TypeVar("Made")

_BEFORE: Final = 3  # calls in which libraries and compilers make themselves ready, which cannot be recorded


class Repeated(Generic[Made]):
    """A function of tensors, which a GPU records and then replays as a whole, if `records` says so; else it is called.

    What else it reads and writes stays where it is in memory. Nothing but `normal` draws random numbers in main memory,
    and no number that is computed decides what is done next.

    Args:
        function: Of tensors, or where nothing is recorded, of whatever it is given; its results may be overwritten by
            the next call.
    """

    def __init__(self, function: Callable[..., Made]) -> None:
        self._function, self._called = function, 0
        self._graph: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """What is copied: a graph is of this one's memory."""
        return {"_function": self._function, "_called": 0, "_graph": None}

    def __call__(self, *given: Tensor | NDArray[Any]) -> Made:
        """What the function gives of what is given; what is recorded are inputs of the first shapes."""
        if not records():
            return self._function(*given)
        inputs = tuple(map(to_tensor, given))
        if self._graph is None and self._called < _BEFORE:
            self._called += 1
            return self._on_a_side_stream(inputs)
        if self._graph is None:
            self._record(inputs)
        both = list(zip(self._inputs, inputs, strict=True))
        if any((own.shape, own.dtype) != (new.shape, new.dtype) for own, new in both):
            return self._function(*inputs)
        for own, new in both:
            own.copy_(new)
        for noise, generator in self._noises:
            noise.copy_(torch.empty(noise.shape).normal_(generator=generator))
        self._graph.replay()
        return self._made

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = [each.clone() for each in inputs]
        graph, collects = torch.cuda.CUDAGraph(), gc.isenabled()
        gc.collect()  # now, since memory must not be freed meanwhile
        gc.disable()
        try:
            how: Any = {"stream": torch.cuda.Stream(), "capture_error_mode": "thread_local"}
            with noise_given(self._noises), torch.cuda.graph(graph, **how):
                self._made = self._function(*self._inputs)
        finally:
            if collects:
                gc.enable()
        self._graph = graph

    def _on_a_side_stream(self, inputs: tuple[Tensor, ...]) -> Made:
        """Call it as it will be recorded (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs)."""
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        # Noise is filled in before a replay, so it cannot be of the graph's own memory, which is used several times.
        with torch.cuda.stream(aside), noise_listed() as self._noises:
            made = self._function(*inputs)
        here.wait_stream(aside)
        return made

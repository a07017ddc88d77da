"""Work that is the same each time, as one CUDA graph: most kernels here take less time than launching them does."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from preceptor.ground.device import noise_given, noise_listed, records, to_tensor

Made = TypeVar("Made")

_BEFORE: Final = 3  # calls in which libraries and compilers make themselves ready, which cannot be recorded


class Repeated(Generic[Made]):
    """A function of arrays, which a GPU records and then replays as a whole, if `records` says so; else it is called.

    It is recorded for each kind of what it is given: tuples and dataclasses, in which arrays and floats may change from
    call to call, and what else there is may not. What else it reads and writes stays where it is in memory. Nothing but
    `normal` draws random numbers in main memory, and no number that is computed decides what is done next.

    Args:
        function: Its results may be overwritten by the next call (`kept`). Recorded, it is given tensors for arrays and
            floats.
    """

    def __init__(self, function: Callable[..., Made]) -> None:
        self._function = function
        self._of_kind: dict[Any, _Recorded[Made]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What is copied: graphs are of this one's memory."""
        return {"_function": self._function, "_of_kind": {}}

    def __call__(self, *given: Any) -> Made:
        """What the function gives of what is given; what is recorded are arrays of the first shapes."""
        if not records():
            return self._function(*given)
        arrays: list[Any] = []
        kind = _taken_apart(given, arrays)
        if kind not in self._of_kind:
            self._of_kind[kind] = _Recorded(lambda *inputs: self._function(*_put_together(kind, iter(inputs))))
        return self._of_kind[kind](*map(to_tensor, arrays))


def kept(made: Mapping[str, Tensor | float]) -> Mapping[str, Tensor | float]:
    """Numbers that repeated work gave, where its next call does not overwrite them."""
    if not records():
        return made
    return dict(zip(made, torch.stack([torch.as_tensor(number) for number in made.values()]).unbind(), strict=True))


def _taken_apart(tree: Any, arrays: list[Any]) -> Any:
    """Put a tree's arrays and floats into a list; what is left of it, to be compared."""
    if isinstance(tree, Tensor | np.ndarray | np.floating | float):
        arrays.append(tree)
        return Tensor
    if isinstance(tree, tuple):
        return tuple, tuple(_taken_apart(part, arrays) for part in tree)
    if is_dataclass(tree):
        return type(tree), tuple(_taken_apart(getattr(tree, field.name), arrays) for field in fields(tree))
    return None, tree


def _put_together(kind: Any, arrays: Iterator[Tensor]) -> Any:
    """A tree of that kind, with these arrays."""
    if kind is Tensor:
        return next(arrays)
    made, parts = kind
    if made is None:
        return parts
    parts = [_put_together(part, arrays) for part in parts]
    return tuple(parts) if made is tuple else made(*parts)


class _Recorded(Generic[Made]):
    """A function of tensors, called until it can be recorded, and from then on replayed."""

    def __init__(self, function: Callable[..., Made]) -> None:
        self._function, self._called = function, 0
        self._graph: Any = None

    def __call__(self, *inputs: Tensor) -> Made:
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

    def _record(self, inputs: Sequence[Tensor]) -> None:
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

    def _on_a_side_stream(self, inputs: Sequence[Tensor]) -> Made:
        """Call it as it will be recorded (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs)."""
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        # Noise is filled in before a replay, so it cannot be of the graph's own memory, which is used several times.
        with torch.cuda.stream(aside), noise_listed() as self._noises:
            made = self._function(*inputs)
        here.wait_stream(aside)
        return made

"""Any tree of state comes back from the disk to the bit."""

import struct
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import torch
from hypothesis import HealthCheck, given, settings

from preceptor.agent.runs.checkpoint import load_tree, save_tree

DTYPES = ["?", "u1", "u2", "u8", "i1", "i4", "i8", "f2", "f4", "f8"]
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(np.dtype(dtype), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
)
tensors = arrays.map(lambda array: torch.from_numpy(np.array(array)))
scalars = arrays.filter(lambda array: array.size > 0).map(lambda array: array.flat[0])
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
keys = st.integers() | st.text() | st.booleans() | st.none()
trees = st.recursive(
    plain | arrays | tensors | scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys.map(lambda key: str(key) if isinstance(key, bool) else key), inner, max_size=4)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Equal in type, structure and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and same(a.numpy(), b.numpy())
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(x, y) and same(a[x], b[y]) for x, y in zip(a, b, strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    return bool(a == b)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(trees)
def test_a_tree_comes_back_to_the_bit(tree: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_tree(Path(folder) / "tree", tree, {"step": 1})
        loaded, meta = load_tree(Path(folder) / "tree")
    assert meta == {"step": 1}
    assert same(tree, loaded)


def test_generators_and_optimizers_continue_where_they_were(tmp_path: Path) -> None:
    numpy_rng, torch_rng = np.random.default_rng(3), torch.Generator().manual_seed(3)
    network = torch.nn.Linear(3, 2)
    network.bias = torch.nn.Parameter(network.weight.detach()[:, 0])  # shares no names, but does share storage
    adam = torch.optim.Adam(network.parameters())
    network(torch.ones(3)).sum().backward()
    adam.step()
    state = {
        "numpy": numpy_rng.bit_generator.state,
        "torch": torch_rng.get_state(),
        "adam": adam.state_dict(),
        "network": network.state_dict(),
    }
    save_tree(tmp_path / "state", state, {})
    loaded, _ = load_tree(tmp_path / "state")
    assert same(loaded["adam"], adam.state_dict())
    assert all(torch.equal(value, loaded["network"][name]) for name, value in network.state_dict().items())
    other = np.random.default_rng()
    other.bit_generator.state = loaded["numpy"]
    assert other.random() == numpy_rng.random()
    twin = torch.Generator()
    twin.set_state(loaded["torch"])
    assert torch.equal(torch.rand(3, generator=twin), torch.rand(3, generator=torch_rng))


def test_loaded_arrays_may_be_written(tmp_path: Path) -> None:
    save_tree(tmp_path / "state", {"a": np.zeros(3), "t": torch.zeros(3)}, {})
    for _ in range(2):
        loaded, _ = load_tree(tmp_path / "state")
        assert loaded["a"].sum() == 0
        assert loaded["t"].sum() == 0
        loaded["a"] += 1
        loaded["t"] += 1

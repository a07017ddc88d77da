"""Messages of the policy server's WebSocket: msgpack, where an array is a map of its dtype, shape and bytes.

{"dtype": "float32", "shape": [2, 6], "data": <48 bytes, little-endian, row by row>}
"""

import base64
from itertools import pairwise
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

_DTYPES = {np.dtype(name).name: np.dtype(name).newbyteorder("<") for name in ("?", "u1", "i4", "i8", "f4", "f8")}
# Asked of an array's dtype its name takes ten microseconds.
_NAMES = {dtype: name for name, little in _DTYPES.items() for dtype in (little, little.newbyteorder(">"))}
_PARTS = {"dtype", "shape", "data"}
# Bytes of a PCG64: state, increment, half a number that is left over, and whether there is one.
_WIDTHS = (16, 16, 4, 1)


def packed(message: Any) -> bytes:
    """A message of plain values and arrays as bytes. Raises `TypeError` for what it cannot hold."""
    return bytes(msgpack.packb(message, default=_plain))


def unpacked(data: bytes) -> Any:
    """The message that bytes hold. Raises `ValueError` if they hold none."""
    try:
        return msgpack.unpackb(data, object_hook=_array)
    except (msgpack.UnpackException, RecursionError, TypeError) as error:
        raise ValueError(f"no msgpack: {error or type(error).__name__}") from error


def generator_state(rng: np.random.Generator) -> bytes:
    """Where a generator of NumPy's kind PCG64 stands, in 37 bytes."""
    told = rng.bit_generator.state
    numbers = (told["state"]["state"], told["state"]["inc"], told["uinteger"], told["has_uint32"])
    return b"".join(number.to_bytes(width, "little") for number, width in zip(numbers, _WIDTHS, strict=True))


def generator_of(state: bytes) -> np.random.Generator:
    """The generator that stands there. Raises `ValueError` if it is none."""
    if not isinstance(state, bytes) or len(state) != sum(_WIDTHS):
        raise ValueError(f"a generator is told in {sum(_WIDTHS)} bytes")
    ends = np.cumsum((0, *_WIDTHS)).tolist()
    at, increment, left, has = (int.from_bytes(state[a:b], "little") for a, b in pairwise(ends))
    rng = np.random.Generator(np.random.PCG64())
    rng.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": at, "inc": increment | 1},
        "has_uint32": has & 1,
        "uinteger": left,
    }
    return rng


def as_text(state: bytes) -> str:
    """Bytes for JSON."""
    return base64.b64encode(state).decode()


def from_text(state: str) -> bytes:
    """The bytes of a text. Raises `ValueError` if it is none of `as_text`."""
    return base64.b64decode(state, validate=True)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray) or (name := _NAMES.get(value.dtype)) is None:
        raise TypeError(f"{getattr(value, 'dtype', type(value).__name__)} cannot be sent")
    data = value.astype(_DTYPES[name], copy=False).tobytes()
    return {"dtype": name, "shape": value.shape, "data": data}


def _array(found: dict[Any, Any]) -> dict[Any, Any] | NDArray[Any]:
    if found.keys() != _PARTS:
        return found
    if found["dtype"] not in _DTYPES:
        raise ValueError(f"arrays are of {', '.join(_DTYPES)}, not {str(found['dtype'])[:40]}")
    return np.frombuffer(bytearray(found["data"]), _DTYPES[found["dtype"]]).reshape(found["shape"])

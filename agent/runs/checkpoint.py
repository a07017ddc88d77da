"""A tree of tensors and plain values on the disk, without pickle, and back to the bit.

A *tree* nests dicts, lists and tuples; its leaves are torch tensors, NumPy arrays and scalars, ints of any size,
floats, bools, strings and None. That covers optimizer states with integer keys, NumPy bit generators and torch
generators. Tensors go to `state.safetensors`, everything else to `state.json`, which holds the former's digest and its
own.
"""

import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save, save_file

from preceptor.ground.atomic import CheckpointError, publish_folder, read_json, standing, truncated
from preceptor.ground.sealed import file_digest, sealed

SCHEMA = 2
KIND = "preceptor-state"
TENSORS, STRUCTURE = "state.safetensors", "state.json"


def save_tree(folder: Path, tree: Any, meta: dict[str, Any]) -> None:
    """Write a tree and a JSON dict of facts about it to `folder` in one step; a kill at any moment loses nothing.

    Raises:
        UserError: The disk is full or the place is not writable; what `folder` held before is still there.
        TypeError: A leaf is of a kind that a tree cannot hold.
    """
    writer = _Writer()
    structure = writer.encode(tree, "")
    with publish_folder(folder) as draft:
        try:
            save_file(writer.tensors, draft / TENSORS)
        except SafetensorError as error:
            raise _as_os_error(error) from error
        facts = {"format": KIND, "schema": SCHEMA, "digest": file_digest(draft / TENSORS)}
        (draft / STRUCTURE).write_text(json.dumps(sealed({**facts, "meta": meta, "tree": structure})))


def load_tree(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Read `(tree, meta)` as `save_tree` wrote them; tensors are on the CPU.

    Raises:
        CheckpointError: Missing, truncated, foreign, or written by a newer version.
    """
    folder = standing(folder)
    if not folder.is_dir():
        raise CheckpointError(f"There is no checkpoint at {folder}.", f"ls {folder.parent}")
    saved = read_json(folder / STRUCTURE, kind=KIND, schema=SCHEMA)
    path = folder / TENSORS
    try:
        if file_digest(path) != saved["digest"]:
            raise truncated(path)
        return _decode(saved["tree"], load_file(path)), saved["meta"]
    except (OSError, SafetensorError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise truncated(path) from error


def tree_as_bytes(tree: Any) -> bytes:
    """A tree as one piece, for a column of a database. Raises `TypeError` as `save_tree` does."""
    writer = _Writer()
    structure = json.dumps(writer.encode(tree, ""))
    return save(writer.tensors, metadata={"tree": structure})


def tree_from_bytes(data: bytes) -> Any:
    """The tree that `tree_as_bytes` wrote, of bytes that are known to be whole."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    return _decode(json.loads(header["__metadata__"]["tree"]), load(data))


def _as_os_error(error: SafetensorError) -> OSError:
    """The system's own error behind safetensors' text, so that a full disk is reported as one."""
    code = str(error).rpartition("os error ")[2].split(")")[0]
    return OSError(int(code), os.strerror(int(code))) if code.isdigit() else OSError(str(error))


class _Writer:
    """Encodes a tree, and files its tensors under free names. Storage is never shared (tied weights)."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._seen: set[int] = set()

    def encode(self, node: Any, path: str) -> Any:
        """JSON for a node: lists and plain scalars are themselves, all else is an object with one tag as its key."""
        if isinstance(node, torch.Tensor):
            return {"tensor": self._add(path, node)}
        if isinstance(node, np.ndarray | np.generic):
            tag = "array" if isinstance(node, np.ndarray) else "scalar"
            try:
                return {tag: self._add(path, torch.as_tensor(np.array(node, order="C")))}
            except TypeError as error:
                raise TypeError(f"cannot save {path or 'root'}: an array of dtype {node.dtype}") from error
        if isinstance(node, dict):
            if wrong := [key for key in node if key is not None and type(key) not in (bool, int, str)]:
                raise TypeError(f"cannot save {path or 'root'}: a key of type {type(wrong[0]).__name__}")
            return {"dict": [[key, self.encode(item, f"{path}/{key}".lstrip("/"))] for key, item in node.items()]}
        if type(node) in (list, tuple):
            items = [self.encode(item, f"{path}/{i}".lstrip("/")) for i, item in enumerate(node)]
            return items if type(node) is list else {"tuple": items}
        if type(node) is float and not math.isfinite(node):
            return {"float": struct.pack(">d", node).hex()}
        if node is None or type(node) in (bool, int, float, str):
            return node
        raise TypeError(f"cannot save {path or 'root'}: a {type(node).__name__}")

    def _add(self, name: str, tensor: torch.Tensor) -> str:
        tensor = tensor.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in self._seen:
            tensor = tensor.clone()
        self._seen.add(tensor.untyped_storage().data_ptr())
        name = name or "root"
        while name in self.tensors or name == "__metadata__":
            name += "'"
        self.tensors[name] = tensor
        return name


def _decode(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(node, list):
        return [_decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    ((tag, value),) = node.items()
    match tag:
        case "tensor":
            return tensors[value]
        case "array":
            return tensors[value].numpy()
        case "scalar":
            return tensors[value].numpy()[()]
        case "dict":
            return {key: _decode(item, tensors) for key, item in value}
        case "tuple":
            return tuple(_decode(item, tensors) for item in value)
        case "float":
            return struct.unpack(">d", bytes.fromhex(value))[0]
        case _:
            raise ValueError(f"unknown tag {tag!r}")

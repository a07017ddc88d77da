"""Files and folders that are either wholly there or not there, whatever kills the process that writes them.

A folder is written into a hidden sibling, flushed to the disk, and renamed into place; the folder that it replaces
stays until then. A reader asks `standing` for the folder, which knows of the one moment in which a replaced folder
lies under its hidden name. One process writes a given folder at a time.
"""

import contextlib
import errno
import fcntl
import glob
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from preceptor.ground.errors import UserError
from preceptor.ground.sealed import parsed, sealed, unsealed

_BETWEEN_LOOKS = 0.2  # seconds, while another holds a lock
_KILLED = 3600  # seconds after which a draft's writer must have been killed
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointError(UserError):
    """Saved state that cannot be used: missing, truncated, foreign, or written by a newer version."""


class DamagedError(CheckpointError):
    """Saved state that was cut short or overwritten; what was saved before it may still be good."""


@contextlib.contextmanager
def publish_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; when the block ends, it becomes `folder` in one step.

    If the block raises, or the process dies at any moment, `standing(folder)` is what it was before. What a killed
    process left behind is removed by the next call.

    Raises:
        UserError: The disk is full, the place is not writable, or the file system refuses otherwise.
    """
    draft, replaced = _hidden(folder, "draft"), _hidden(folder, "replaced")
    with _explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _finish_interrupted(folder)
        draft.mkdir()
        try:
            yield draft
            for path in (*draft.rglob("*"), draft):
                _flush(path)
            if folder.exists():
                folder.rename(replaced)
            draft.rename(folder)
            _flush(folder.parent)
        finally:
            _finish_interrupted(folder)


def standing(folder: Path) -> Path:
    """The complete folder that stands for `folder` now, which need not exist if nothing was ever published."""
    replaced = _hidden(folder, "replaced")
    return replaced if replaced.is_dir() and not folder.exists() else folder


def write_file(path: Path, data: bytes) -> None:
    """Replace or create a file in one step, flushed to the disk. Raises `UserError` as `publish_folder` does."""
    draft = _hidden(path, f"{os.getpid()}-{threading.get_ident()}.draft")  # two may write at once: the last one stays
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(_hidden(Path(glob.escape(path.name)), "*-*.draft").name):
            with contextlib.suppress(FileNotFoundError):  # another has done it, or it has become the file
                if left.stat().st_mtime < time.time() - _KILLED:
                    left.unlink()
        try:
            draft.write_bytes(data)
            _flush(draft)
            draft.replace(path)
            _flush(path.parent)
        finally:
            draft.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace or create a JSON file, sealed, in one step. Raises `UserError` as `publish_folder` does."""
    write_file(path, (json.dumps(sealed(value), indent=1) + "\n").encode())


def append_line(path: Path, line: bytes) -> None:
    """Add a line to a file and flush it to the disk; raises `UserError` as `publish_folder` does, and takes it back."""
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab") as file:
                file.write(line + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise


@contextlib.contextmanager
def alone(folder: Path, flag: str = "--savedir", wait: float = 0) -> Iterator[None]:
    """Hold the lock of a folder, which is created if need be: two processes that write into it would mix their files.

    The system releases it when the process ends, however that happens. `flag` names the folder on the command line.

    Raises:
        UserError: Another holds it, still after `wait` seconds, or the folder cannot be created.
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    with file:
        until = time.monotonic() + wait
        while not _locked(file):
            if time.monotonic() >= until:
                what = f"{folder} is in use: another command is writing into it."
                raise UserError(what, f"wait for it or end it, or name another {flag}")
            time.sleep(_BETWEEN_LOOKS)
        yield


def _locked(file: IO[str]) -> bool:
    """Whether the lock of a file could be had now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_json(path: Path, *, kind: str, schema: int) -> dict[str, Any]:
    """Read a JSON object that says `"format": kind` and `"schema": <number>` of itself.

    Raises:
        CheckpointError: Missing, of another format, or with a schema number above `schema`.
        DamagedError: It does not parse, or its seal is broken.
    """
    value = read_sealed(path, schema=schema)
    if value.get("format") != kind:
        raise CheckpointError(f"{path} is not a {kind} file of this project.", f"ls {path.parent.parent}")
    found = value.get("schema")
    if not isinstance(found, int) or found > schema:
        what = f"{path} has schema {found}; this version reads up to {schema}."
        raise CheckpointError(what, "git pull && make test  # a newer version")
    return value


def read_sealed(path: Path, *, schema: int) -> dict[str, Any]:
    """Read a JSON object and check its seal, which it must have if it is of this schema. Raises as `read_json`."""
    try:
        value = parsed(path.read_bytes())
        return unsealed(value, required=isinstance(value, dict) and value.get("schema") == schema)
    except OSError as error:
        missing = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise CheckpointError(f"{path} {missing}.", f"ls -l {path.parent}") from error
    except ValueError as error:
        raise truncated(path, error) from error


def truncated(path: Path, why: object = "", next_step: str = "") -> DamagedError:
    """The error for a file that is damaged or cut short."""
    older = f"ls {path.parent.parent}  # name an older checkpoint beside it, or train again"
    reason = f" ({str(why).rstrip('.')})" if str(why) else ""
    return DamagedError(f"{path} is truncated or damaged{reason}.", next_step or older)


def _hidden(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")


def _finish_interrupted(folder: Path) -> None:
    """Remove drafts and replaced folders; a replaced folder goes back if nothing took its place."""
    if (current := standing(folder)) != folder:
        current.rename(folder)
    for leftover in (_hidden(folder, "draft"), _hidden(folder, "replaced")):
        if leftover.exists():
            shutil.rmtree(leftover)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the system's refusals into `UserError`."""
    try:
        yield
    except OSError as error:
        what = f"Could not save {path}: {error.strerror or error}. What was saved before is untouched."
        if error.errno in NO_SPACE:
            next_step = f"df -h {path.parent}  # make room, then repeat the command with --resume"
        else:
            next_step = f"ls -ld {path.parent}  # make it writable, or choose another --logdir"
        raise UserError(what, next_step) from error

"""Which label store is meant: a file, a run's, or the one that was written last."""

from pathlib import Path

from preceptor.agent.runs.run import Run
from preceptor.ground.errors import UserError


def find_store(name: str | None, logdir: str) -> Path:
    """The label store of that path, or of the run of that name or path; without a name, the one written last.

    A path that looks like a store's need not exist. Raises `UserError` if there is no such run, or no store at all.
    """
    if name is not None:
        path = Path(name)
        is_path = path.is_file() or path.suffix in (".sqlite", ".sqlite3", ".db")
        return path if is_path else _store_of(Run.find(logdir, None, None, name))
    stores = {store for run in Run.all(logdir) if (store := _store_of(run)).is_file()}
    if not stores:
        raise UserError(f"There is no label store under {logdir}.", "python main.py train --task KeyInBox")
    return max(stores, key=_written)


def _store_of(run: Run) -> Path:
    return Path(run.config.get("teacher", {}).get("labels") or run.labels)  # one that is damaged tells no teacher


def _written(store: Path) -> float:
    """When a store was written last; while it is open, what is new lies in the log beside it."""
    return max(path.stat().st_mtime for path in (store, Path(f"{store}-wal")) if path.exists())

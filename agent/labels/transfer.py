"""`labels export` and `labels import`: a label store as lines of JSON, and back."""

import json
from pathlib import Path
from typing import Any

from preceptor.agent.labels.config import ExportConfig, ImportConfig
from preceptor.agent.labels.stores import find_store
from preceptor.agent.runs.carried import task_of
from preceptor.envs.catalog import TASKS, get_task
from preceptor.ground.atomic import write_file
from preceptor.ground.errors import UserError
from preceptor.teacher.label_lines import MARK, from_lines, to_record
from preceptor.teacher.labels import LabelStore


def export_calls(config: ExportConfig) -> dict[str, Any]:
    """Write a store's calls into a file that is whole or not there; of what is there, only exports are replaced."""
    task = task_of(config.task, config.logdir).name if config.task else None
    path = find_store(config.store, config.logdir)
    file, begins = Path(config.to) if config.to else path.with_suffix(".jsonl"), f'{{"{MARK}"'.encode()
    if file.exists() and not (file.is_file() and _beginning(file, len(begins)) in (b"", begins)):
        raise UserError(f"{file} exists, and `labels export` did not write it.", "another file with --to")
    with LabelStore(path, read_only=True) as store:
        calls = store.calls(task, answers_only=config.answers_only)
    write_file(file, "".join(json.dumps(to_record(call)) + "\n" for call in calls).encode())
    return {"store": str(path), "file": str(file), "lines_written": len(calls)}


def _beginning(file: Path, length: int) -> bytes:
    with file.open("rb") as stream:
        return stream.read(length)


def import_calls(config: ImportConfig) -> dict[str, Any]:
    """Merge a file's calls into a store. Answers that are there stay, and what is there already is not added again."""
    sizes = {task.options.digest: len(task.options) for task in map(get_task, TASKS)}
    try:
        with open(config.file, "rb") as stream:
            calls = from_lines(stream, config.file, sizes)
    except OSError as error:
        what = f"{config.file} cannot be read: {error.strerror}."
        raise UserError(what, "python main.py labels export --help") from error
    path = find_store(config.into, config.logdir)
    with LabelStore(path) as store:
        merged = store.merge(calls)
    return {"file": config.file, "store": str(path), "lines_read": len(calls), **merged._asdict()}

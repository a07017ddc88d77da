"""What can be known to go wrong before anything is started, each with what to do about it."""

import os
import re
from pathlib import Path

from ground.errors import UserError
from serving.backends import VENV, stored_config
from serving.config import LOOPBACK, ServeConfig
from teacher.card import TINY_MODEL

# Any of these makes a tokenizer or the weights; what else lies in the folder is the server's to judge.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check(config: ServeConfig) -> list[str]:
    """Look before anything is started; returns what the user should know. Of a resolved config.

    Raises:
        UserError: It cannot work, or is sure to fail minutes later.
    """
    warnings = []
    if config.host not in LOOPBACK:
        what = f"--host {config.host}: anyone who reaches this machine can use the server"
        warnings.append(f"{what}; a key in PRECEPTOR_SERVER_KEY restricts vllm and local to those who have it.")
    if config.backend != "local" and not (VENV / ".ready-requirements-serving.txt").exists():
        what = f"{config.backend} is not installed: its environment {VENV} is missing or unfinished."
        raise UserError(what, "make serve-setup  # or --backend local, which needs nothing more")
    if Path(config.model or "").is_dir():
        check_folder(config)
    else:
        warnings += check_id(config)
    return warnings


def check_id(config: ServeConfig) -> list[str]:
    """Where a model that is no folder would come from. Raises `UserError` if it can come from nowhere."""
    model, tiny = str(config.model), f"python main.py serve --backend {config.backend}  # the tiny model"
    first, slash, _ = model.partition("/")
    if not slash or not _ID.fullmatch(model) or first in (".", "..", "~") or Path(first).is_dir():
        raise UserError(f"There is no model folder {model}.", tiny)
    if config.backend == "local":
        raise UserError(f"--backend local serves a folder, and {model} is none.", tiny)
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    if (cache / f"models--{model.replace('/', '--')}").is_dir():
        return []
    nowhere = f"{model} is neither a folder nor in {cache}"
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        what = f"{nowhere}, and HF_HUB_OFFLINE forbids fetching it."
        raise UserError(what, "unset HF_HUB_OFFLINE  # or name a folder")
    return [f"{nowhere}: the server downloads it from huggingface.co, gigabytes perhaps."]


def check_folder(config: ServeConfig) -> None:
    """Raises `UserError` if a model folder lacks something, or the model has a shorter context than was asked for."""
    folder = Path(str(config.model))
    example = f"ls {TINY_MODEL}  # a folder that works"
    try:
        stored = stored_config(str(folder))
    except ValueError as error:
        raise UserError(f"{folder}/config.json is not JSON: {error}.", example) from error
    if not stored:
        raise UserError(f"{folder} is no transformers model: it has no config.json, or an empty one.", example)
    if not any((folder / name).exists() for name in TOKENIZERS):
        raise UserError(f"{folder} has no tokenizer: none of {', '.join(TOKENIZERS)}.", example)
    if not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
        raise UserError(f"{folder} has no weights: none of {', '.join(WEIGHTS)}.", example)
    longest = stored.get("max_position_embeddings")
    if config.max_model_len and isinstance(longest, int) and config.max_model_len > longest:
        what = f"--max-model-len {config.max_model_len} is more than the {longest} tokens that the model has."
        again = f"python main.py serve --backend {config.backend} --model {folder} --max-model-len {longest}"
        raise UserError(what, again)

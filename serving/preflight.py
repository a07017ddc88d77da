"""What can be known to go wrong before anything is started, each with what to do about it."""

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

from ground.errors import UserError
from serving.backends import VENV, on_cpu, stored_config
from serving.config import LOOPBACK, TINY_MODEL, ServeConfig

# Any of these makes a tokenizer or the weights; what else lies in the folder is the server's to judge.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
# vllm.v1.attention.backends.cpu_attn of vLLM 0.32.
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
# What was seen beyond the weights, on a CPU, in bytes: libraries, three processes of vLLM, its cache.
OVERHEAD = {"vllm": 2.5e9, "fastchat": 0.6e9, "local": 0.5e9, "faulty": 0.05e9}
CARD_FILE = "preceptor.json"
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check(config: ServeConfig) -> list[str]:
    """Look before anything is started; returns what the user should know. Of a resolved config.

    Raises:
        UserError: It cannot work, or is sure to fail minutes later.
    """
    warnings = []
    if config.host not in LOOPBACK:
        who = f"--host {config.host}: whoever reaches this machine can use the server"
        warnings.append(f"{who}; a key in PRECEPTOR_SERVER_KEY restricts vllm and local to those who have it.")
    if config.backend == "faulty":
        if config.script and not Path(config.script).is_file():
            raise UserError(f"There is no script {config.script}.", "cat serving/faulty/example.toml")
        return warnings
    if config.backend in ("vllm", "fastchat"):
        check_environment(config.backend)
    if Path(config.model or "").is_dir():
        check_folder(config)
        check_memory(config)
    else:
        warnings += check_id(config)
    return warnings


def check_environment(backend: str) -> None:
    """Raises `UserError` if the environment of vLLM and FastChat is not there, or was not finished."""
    if not (VENV / ".ready-requirements-serving.txt").exists():
        what = f"{backend} is not installed: its environment {VENV} is missing or unfinished."
        raise UserError(what, "make serve-setup  # or --backend local, which needs nothing more")


def check_id(config: ServeConfig) -> list[str]:
    """Where a model that is no folder would come from. Raises `UserError` if it can come from nowhere."""
    model, tiny = str(config.model), f"python main.py serve --backend {config.backend}  # the tiny model"
    first, slash, _ = model.partition("/")
    if not _ID.fullmatch(model) or first in (".", "..", "~") or (slash and Path(first).is_dir()) or not slash:
        raise UserError(f"There is no model folder {model}.", tiny)
    if config.backend == "local":
        raise UserError(f"--backend local serves a folder, and {model} is none.", tiny)
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    if (cache / f"models--{model.replace('/', '--')}").is_dir():
        return []
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        what = f"{model} is neither a folder nor in {cache}, and HF_HUB_OFFLINE forbids to fetch it."
        raise UserError(what, "unset HF_HUB_OFFLINE  # or name a folder")
    return [
        f"{model} is neither a folder nor in {cache}: the server downloads it from huggingface.co, gigabytes perhaps."
    ]


def check_folder(config: ServeConfig) -> None:
    """Raises `UserError` if a model folder lacks something, or the server is known to refuse it."""
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
    if not any(weights(folder)):
        raise UserError(f"{folder} has no weights: none of {', '.join(WEIGHTS)}.", example)
    missing = _shards(folder) - {path.name for path in folder.iterdir()}
    if missing:
        raise UserError(f"{folder} lacks {len(missing)} of its files of weights: {min(missing)}.", f"ls {folder}")
    if config.backend in ("vllm", "local") and not has_chat_template(folder):
        what = f"{folder} has no chat template, neither chat_template.jinja nor in tokenizer_config.json"
        raise UserError(f"{what}, so {config.backend} refuses chats.", f"cp {TINY_MODEL}/chat_template.jinja {folder}/")
    if config.backend == "vllm" and on_cpu():
        _check_head(folder, stored)
    longest = stored.get("max_position_embeddings")
    if config.max_model_len and isinstance(longest, int) and config.max_model_len > longest:
        what = f"--max-model-len {config.max_model_len} is more than the {longest} tokens that the model has."
        raise UserError(what, f"python main.py serve --backend {config.backend} ... --max-model-len {longest}")


def _check_head(folder: Path, stored: dict[str, Any]) -> None:
    size = stored.get("head_dim")
    if not size and stored.get("num_attention_heads"):
        size = stored.get("hidden_size", 0) // stored["num_attention_heads"]
    if size and size not in CPU_HEAD_SIZES:
        known = ", ".join(map(str, CPU_HEAD_SIZES))
        what = f"vLLM's kernels for CPUs refuse heads of size {size}, which {folder} has; they take {known}."
        raise UserError(what, f"python main.py serve --backend fastchat --model {folder}  # or local")


def check_memory(config: ServeConfig) -> None:
    """Raises `UserError` if the model does not fit into what is free, where that can be known: on a CPU."""
    free = available_memory()
    if free is None or (config.backend != "local" and not on_cpu()):
        return
    size = sum(path.stat().st_size for path in weights(Path(str(config.model))))
    needed = config.workers * (size + OVERHEAD[str(config.backend)])
    if needed > free:
        what = f"{config.backend} needs about {needed / 1e9:.1f} GB of memory; {free / 1e9:.1f} are free."
        next_step = "python main.py serve --backend local  # or end other programs, fewer --workers, a smaller --model"
        raise UserError(what, next_step)


def available_memory() -> float | None:
    """Bytes that a new program could have, within the limits of a container; None if the system does not say."""
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(float(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024)
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # what is used of it counts the disk cache too
        with contextlib.suppress(OSError, ValueError):
            found.append(float((Path("/sys/fs/cgroup") / limit).read_text()))
    return min(found) if found else None


def weights(folder: Path) -> list[Path]:
    """The files that hold a model's weights."""
    return [path for pattern in WEIGHTS for path in folder.glob(pattern)]


def has_chat_template(folder: Path) -> bool:
    """Whether a model folder says how a conversation is written down."""
    if any((folder / name).exists() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    with contextlib.suppress(OSError, ValueError):
        return bool(json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template"))
    return False


def card(model: str) -> dict[str, Any]:
    """What a model folder of this project says of itself; empty for any other model."""
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads((Path(model) / CARD_FILE).read_text()))
    return {}


def _shards(folder: Path) -> set[str]:
    """Names of the files that an index promises."""
    names: set[str] = set()
    for index in folder.glob("*.index.json"):
        with contextlib.suppress(ValueError):
            names |= set(json.loads(index.read_text()).get("weight_map", {}).values())
    return names

"""The servers that can be launched: what is looked at before, and the commands that each consists of."""

import json
import os
import re
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from preceptor.ground.errors import UserError
from preceptor.ground.program import HOME, findable
from preceptor.serving.config import KEY_VARIABLE, ServeConfig, words_of
from preceptor.serving.ports import free_ports
from preceptor.serving.processes import Command
from preceptor.teacher.card import TINY_MODEL

VENV = HOME / ".venv-serving"
PYTHON = VENV / "bin" / "python"
# The servers report their use to no service.
QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    # Seconds: how soon FastChat's workers are found by a controller that was started again, and dead ones forgotten.
    "FASTCHAT_WORKER_HEART_BEAT_INTERVAL": "5",
    "FASTCHAT_CONTROLLER_HEART_BEAT_EXPIRATION": "30",
}
# Without compilation: the first request for log-probabilities would stall for 15 seconds, the start for 80.
VLLM_ON_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1"}
VLLM_ON_CPU_FLAGS = ("--enforce-eager", "--max-num-seqs", "64")
# A model's folder has one of each; what else lies there is the server's to judge.
OURS = {"local": "preceptor.serving.local", "agents": "preceptor.serving.policy"}  # in the trainer's environment
PARTS = {
    "config": ("config.json",),
    "tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json"),
    "weights": ("*.safetensors", "*.bin", "*.pt", "*.gguf"),
}


def check(config: ServeConfig) -> list[str]:
    """Look before anything is started; returns what the user should know. Of a resolved config.

    Raises:
        UserError: It cannot work, or is sure to fail minutes later.
    """
    notes = []
    if config.host not in ("127.0.0.1", "localhost", "::1"):
        who = f"--host {config.host}: anyone who reaches this machine can use the server"
        notes.append(f"{who}; a key in {KEY_VARIABLE} restricts all but fastchat to those who have it.")
    if config.backend == "agents":
        return notes
    if config.backend != "local" and not (VENV / ".ready-requirements-serving.txt").exists():
        what = f"{config.backend} is not installed: its environment {VENV} is missing or unfinished."
        raise UserError(what, "make serve-setup  # or --backend local, which needs nothing more")
    folder = Path(str(config.model))
    if not folder.is_dir():
        return notes + _check_id(config)
    for part, patterns in PARTS.items():
        if not any(any(folder.glob(pattern)) for pattern in patterns):
            what = f"{folder} is no transformers model: it has no {part}, none of {', '.join(patterns)}."
            raise UserError(what, f"ls {TINY_MODEL}  # a folder that works")
    return notes


def _check_id(config: ServeConfig) -> list[str]:
    """Where a model that is no folder would come from. Raises `UserError` if it can come from nowhere."""
    from huggingface_hub import constants

    model, tiny = str(config.model), f"python main.py serve --backend {config.backend}  # the tiny model"
    first = model.partition("/")[0]
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or first in (".", "..") or Path(first).is_dir():
        raise UserError(f"There is no model folder {model}.", tiny)
    if config.backend == "local":
        raise UserError(f"--backend local serves a folder, and {model} is none.", tiny)
    nowhere = f"{model} is neither a folder nor in {constants.HF_HUB_CACHE}"
    if Path(constants.HF_HUB_CACHE, f"models--{model.replace('/', '--')}").is_dir():
        return []
    if constants.HF_HUB_OFFLINE:
        what = f"{nowhere}, and HF_HUB_OFFLINE forbids fetching it."
        raise UserError(what, "unset HF_HUB_OFFLINE  # or name a folder")
    return [f"{nowhere}: the server downloads it from huggingface.co, gigabytes perhaps."]


def commands(config: ServeConfig) -> list[Command]:
    """What to start for a resolved config; the first one answers."""
    return PLANS[str(config.backend)](config)


def environment(config: ServeConfig) -> dict[str, str]:
    """The environment of a server: the user's own settings win over ours, and a key goes along where it is needed."""
    kept = config.fallback.teacher == "llm"
    own = {name: value for name, value in os.environ.items() if kept or name != "OPENAI_API_KEY"}
    ours = QUIET | (VLLM_ON_CPU if config.backend == "vllm" and _on_cpu() else {})
    if Path(str(config.model)).is_dir():
        ours["HF_HUB_OFFLINE"] = "1"
    if config.model == str(TINY_MODEL) or config.backend == "agents":
        ours["OMP_NUM_THREADS"] = "1"  # more are slower for networks of this size
    if config.backend in OURS:
        own = findable(own)
    if key := own.get(KEY_VARIABLE):
        own["VLLM_API_KEY"] = key
    return ours | own


def _on_cpu() -> bool:
    """Whether the serving environment holds vLLM's CPU build, which dev/setup installs where there is no GPU."""
    return any(VENV.glob("lib/python3*/site-packages/vllm_cpu-*.dist-info"))


def _command(name: str, module: str, *words: str, needs: int | None = None, **flags: object) -> Command:
    """A module that is run with flags; None leaves one out."""
    said = [(f"--{flag.replace('_', '-')}", str(value)) for flag, value in flags.items() if value is not None]
    python = sys.executable if module in OURS.values() else str(PYTHON)
    return Command(name, (python, "-m", module, *chain(*said), *words), int(str(flags["port"])), needs)


def _asked(config: ServeConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("host", "port", "model", "served_model_name")}


def _vllm(config: ServeConfig) -> list[Command]:
    stored = _stored_config(Path(str(config.model)) / "config.json")
    halved = "float32" in (stored.get("dtype"), stored.get("torch_dtype"))  # vLLM would halve the precision
    flags: dict[str, Any] = {
        "structured_outputs_config": '{"backend":"xgrammar","disable_any_whitespace":true}',
        "max_model_len": config.max_model_len or "auto",  # auto: what the model has and the memory holds
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "dtype": "float32" if halved else None,
    }
    words = VLLM_ON_CPU_FLAGS if _on_cpu() else ()
    return [_command("vllm", "vllm.entrypoints.openai.api_server", *words, **_asked(config), **flags)]


def _stored_config(path: Path) -> dict[str, Any]:
    """A model's config.json, the part about text where there are several; empty for an id."""
    try:
        stored = json.loads(path.read_bytes())
        return {**stored, **stored.get("text_config", {})}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not JSON of a model: {error}.", f"cat {TINY_MODEL}/config.json") from error


def _fastchat(config: ServeConfig) -> list[Command]:
    """Controller, model workers that register with it, and the API server that asks it where to go."""
    if os.environ.get(KEY_VARIABLE):
        what = f"{KEY_VARIABLE} is set, but FastChat takes keys on its command line alone, where all users read them."
        raise UserError(what, f"env -u {KEY_VARIABLE} python main.py serve --backend fastchat")
    first, *ports = [port for port in free_ports(2 + config.workers) if port != config.port]
    told: dict[str, Any] = {"controller_address": f"http://127.0.0.1:{first}", "needs": first}  # or a worker dies
    model: dict[str, Any] = {"model_path": config.model, "model_names": config.served_model_name}
    how: dict[str, Any] = {"conv_template": config.conv_template, "device": "cpu" if _on_cpu() else "cuda"}
    api, controller, worker = (f"fastchat.serve.{each}" for each in ("openai_api_server", "controller", "model_worker"))
    plan = [_command("api", api, host=config.host, port=config.port, **told)]
    plan += [_command("controller", controller, host="127.0.0.1", port=first)]
    for number, port in enumerate(ports[: config.workers], start=1):
        here: dict[str, Any] = {"host": "127.0.0.1", "port": port, "worker_address": f"http://127.0.0.1:{port}"}
        plan += [_command(f"worker-{number}", worker, **here, **told, **model, **how)]
    return plan


def _local(config: ServeConfig) -> list[Command]:
    """The server of this project, in the environment of the trainer."""
    return [_command("local", OURS["local"], max_model_len=config.max_model_len, **_asked(config))]


def _agents(config: ServeConfig) -> list[Command]:
    """The policy server."""
    limits = ("max_sessions", "session_seconds", "batch_wait_ms")
    flags: dict[str, Any] = {name: getattr(config, name) for name in ("host", "port", "logdir", *limits)}
    words = ["--agent", *(f"{name}={run}" for name, run in config.runs().items())]
    words += ["--log-observations"] * config.log_observations + words_of(config.fallback)
    return [_command("agents", OURS["agents"], *words, state=config.folder, **flags)]


PLANS: dict[str, Callable[[ServeConfig], list[Command]]] = {
    "local": _local,
    "vllm": _vllm,
    "fastchat": _fastchat,
    "agents": _agents,
}

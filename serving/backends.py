"""The servers that can be launched, each as the list of commands that it consists of. The first one answers."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ground.errors import UserError
from serving.config import KEY_VARIABLE, ROOT, ServeConfig
from serving.ports import free_ports
from serving.processes import Command
from teacher.card import TINY_MODEL

VENV = ROOT / ".venv-serving"
PYTHON = VENV / "bin" / "python"
# The servers report their use to no service.
QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}
# Without compilation: the first request for log-probabilities would stall for 15 seconds, the start for 80.
VLLM_ON_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1"}
VLLM_ON_CPU_FLAGS = ("--enforce-eager", "--max-num-seqs", "64")
# Seconds: how soon workers are found again by a controller that was started again, and dead ones forgotten.
FASTCHAT = {"FASTCHAT_WORKER_HEART_BEAT_INTERVAL": "5", "FASTCHAT_CONTROLLER_HEART_BEAT_EXPIRATION": "30"}
STRUCTURED = '{"backend":"xgrammar","disable_any_whitespace":true}'


def commands(config: ServeConfig) -> list[Command]:
    """What to start for a resolved config."""
    assert config.backend is not None
    return PLANS[config.backend](config)


def environment(config: ServeConfig) -> dict[str, str]:
    """The environment of a server: the user's own settings win over ours, and no key of another service goes along."""
    own = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    offline = {"HF_HUB_OFFLINE": "1"} if Path(config.model or "").is_dir() else {}
    key = {"VLLM_API_KEY": os.environ[KEY_VARIABLE]} if os.environ.get(KEY_VARIABLE) else {}
    few = {"OMP_NUM_THREADS": "1"} if config.model == str(TINY_MODEL) else {}  # more are slower for so small a model
    return {**QUIET, **offline, **few, **own, **key}


def on_cpu() -> bool:
    """Whether the serving environment holds vLLM's CPU build, which dev/setup installs where there is no GPU."""
    return any(VENV.glob("lib/python3*/site-packages/vllm_cpu-*.dist-info"))


def stored_config(model: str) -> dict[str, Any]:
    """A model folder's config.json, the part about text where there are several; empty for an id."""
    path = Path(model) / "config.json"
    if not path.is_file():
        return {}
    stored = json.loads(path.read_text())
    return {**stored, **stored.get("text_config", {})} if isinstance(stored, dict) else {}


def _vllm(config: ServeConfig) -> list[Command]:
    words = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", config.model]
    words += ["--served-model-name", config.served_model_name, "--host", config.host, "--port", config.port]
    words += ["--structured-outputs-config", STRUCTURED]
    words += VLLM_ON_CPU_FLAGS if on_cpu() else ()
    stored = stored_config(config.model or "")
    if "float32" in (stored.get("dtype"), stored.get("torch_dtype")):
        words += ["--dtype", "float32"]  # vLLM would halve the precision
    words += ["--max-model-len", config.max_model_len or "auto"]  # auto: what the model has and the memory holds
    if config.gpu_memory_utilization is not None:
        words += ["--gpu-memory-utilization", config.gpu_memory_utilization]
    env = {name: os.environ.get(name, value) for name, value in VLLM_ON_CPU.items()} if on_cpu() else {}
    return [Command("vllm", _texts(words), config.port or 0, env=env)]


def _fastchat(config: ServeConfig) -> list[Command]:
    """Controller, model workers that register with it, and the API server that asks it where to go."""
    if os.environ.get(KEY_VARIABLE):
        what = f"{KEY_VARIABLE} is set, but FastChat takes keys on its command line alone, where all users read them."
        raise UserError(what, f"env -u {KEY_VARIABLE} python main.py serve --backend fastchat")
    ports = [port for port in free_ports(2 + config.workers) if port != config.port]
    told = ("--controller-address", f"http://127.0.0.1:{ports[0]}")

    def part(name: str, module: str, port: int, *words: object, host: str = "127.0.0.1") -> Command:
        start = (PYTHON, "-m", f"fastchat.serve.{module}", "--host", host, "--port", port)
        needs = ports[0] if told[0] in words else None  # a worker that finds no controller dies
        return Command(name, _texts([*start, *words]), port, needs, FASTCHAT)

    model = ("--model-path", config.model, "--model-names", config.served_model_name)
    how = ("--conv-template", config.conv_template, "--device", "cpu" if on_cpu() else "cuda")
    plan = [part("api", "openai_api_server", config.port or 0, *told, host=config.host)]
    plan += [part("controller", "controller", ports[0])]
    for number, port in enumerate(ports[1 : 1 + config.workers], start=1):
        address = ("--worker-address", f"http://127.0.0.1:{port}")
        plan += [part(f"worker-{number}", "model_worker", port, *told, *address, *model, *how)]
    return plan


def _local(config: ServeConfig) -> list[Command]:
    """The server of this project, in the environment of the trainer."""
    words = [sys.executable, "-m", "serving.local", "--host", config.host, "--port", config.port]
    words += ["--model", config.model, "--served-model-name", config.served_model_name]
    words += [] if config.max_model_len is None else ["--max-model-len", config.max_model_len]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return [Command("local", _texts(words), config.port or 0, env={"PYTHONPATH": path})]


PLANS: dict[str, Callable[[ServeConfig], list[Command]]] = {"local": _local, "vllm": _vllm, "fastchat": _fastchat}


def _texts(words: Sequence[object]) -> tuple[str, ...]:
    return tuple(str(word) for word in words)

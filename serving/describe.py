"""How a server is used, in words and as a result line."""

import os
import shlex
from collections.abc import Mapping
from typing import Any

from serving import ready
from serving.config import KEY_VARIABLE
from serving.state import State
from teacher.card import card_of


def usage(state: State) -> dict[str, Any]:
    """Where a server is, what it serves, how to be taught by it, where its logs are and how it is stopped."""
    base_url = f"{state.url}/v1"
    train = ["python", "main.py", "train", "--teacher", "llm", "--base-url", base_url, "--model", state.served]
    if template := card_of(state.model).get("prompt"):
        train += ["--prompt", str(template)]
    key = f"OPENAI_API_KEY=${KEY_VARIABLE} " if os.environ.get(KEY_VARIABLE) else ""
    return {
        "server": state.name,
        "status": state.status,
        "base_url": base_url,
        "model": state.served,
        "path": state.model,
        "pid": state.pid,
        "processes": {part.name: part.pid for part in state.parts},
        "logs": state.folder,
        "train": key + shlex.join(train),
        "stop": f"python main.py serve --stop --port {state.port}",
    }


def seen(state: State) -> dict[str, Any]:
    """The same of a server that was started some time ago, with what became of it."""
    restarts = {part.name: part.restarts for part in state.parts if part.restarts}
    answers = state.status not in ("failed", "stale") and ready.answers(state.url)
    told = {"since": state.since, "answers": answers, "restarts": restarts, "what": state.what, "next": state.next_step}
    return {**usage(state), **told}


def render(verb: str, result: Mapping[str, Any]) -> str:
    """What a person reads of a result of `serve`, in the way of the other verbs."""
    if "stopped" in result:
        return f"stopped: {', '.join(result['stopped'])}" if result["stopped"] else "No server was running."
    if "servers" in result:
        return "\n".join(map(_line, result["servers"])) or "No server was started, or each was stopped."
    took = f" after {result['seconds']} s" if "seconds" in result else ""
    head = f"{result['server']} runs already" if result.get("already") else f"{result['server']} is ready{took}"
    parts = ", ".join(f"{name} {pid}" for name, pid in result["processes"].items())
    return "\n".join(
        [
            f"{head}: {result['model']} at {result['base_url']}",
            f"  train   {result['train']}",
            f"  stop    {result['stop']}",
            f"  logs    {result['logs']}",
            f"  pids    launcher {result['pid']}, {parts}",
        ]
    )


def _line(server: Mapping[str, Any]) -> str:
    died = ", ".join(f"{name} started again {count}x" for name, count in server["restarts"].items())
    match server["status"]:
        case "failed":
            said = f"failed: {server['what'].splitlines()[0]} next: {server['next']}"
        case "stale":
            said = f"its launcher, process {server['pid']}, is gone; next: {server['stop']}"
        case status:
            answers = "" if server["answers"] else ", does not answer"
            said = f"{status}{answers}, {server['model']} at {server['base_url']}, pid {server['pid']}"
    return ", ".join(filter(None, [f"{server['server']}: {said}", f"since {server['since']}", died]))

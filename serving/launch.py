"""The `serve` verb: start a server, list those that run, or stop them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from preceptor.ground.errors import UserError
from preceptor.ground.program import INVOCATION
from preceptor.serving.backends import check, commands
from preceptor.serving.config import KEY_VARIABLE, ServeConfig
from preceptor.serving.keys import day, made
from preceptor.serving.ports import bound
from preceptor.serving.processes import with_log
from preceptor.serving.ready import answers, is_label
from preceptor.serving.state import ServerState, known, read
from preceptor.serving.supervisor import supervise


def serve(
    config: ServeConfig, tell: Callable[[str], None], on_ready: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Do what the config says; `tell` is given notes, and `on_ready` in the foreground what --detach returns.

    Returns:
        `{"servers": [...]}` for --status; `{"key": ..., "expires": ...}` for --key-days; `{"stopped": [names]}` for
        --stop, and at the end of the foreground; for
        --detach, or if that very server runs already, its state.

    Raises:
        UserError: It cannot be started, died, or does not end.
    """
    if config.status and config.stop:
        raise UserError("--status and --stop are two commands.", "python main.py serve --status")
    if config.key_days is not None:
        key, until = made(os.environ.get(KEY_VARIABLE, ""), config.key_days)
        return {"key": key, "expires": day(until)}
    meant = known(config.logdir, backend=config.backend, port=config.port)
    if config.status:
        return {"servers": [{**asdict(state), "answers": state.alive and answers(state.base_url)} for state in meant]}
    if config.stop:
        return {"stopped": _stop(meant)}
    if not sys.platform.startswith("linux"):
        what = f"serve watches processes in Linux's way, and this is {sys.platform}."
        raise UserError(what, "python main.py train --teacher local  # or run the server by hand")
    config = config.resolved()
    for note in check(config):
        tell(f"note: {note}")
    if running := _claim(config, tell):
        return {**asdict(running), "already": True}
    plan, started = commands(config), time.monotonic()
    tell(f"starting {config.name}; logs in {config.folder}")
    if config.detach:
        return _detached(config)

    def announce(state: ServerState, said: str) -> None:
        if said and not is_label(said):
            note = f"note: asked for a letter, {state.model} began with {said[:40]!r}"
            tell(f"{note}; python main.py labels judge shows how well it labels.")
        on_ready({**asdict(state), "seconds": round(time.monotonic() - started, 1)})

    supervise(config, plan, tell, announce)
    return {"stopped": [config.name]}


def _detached(config: ServeConfig) -> dict[str, Any]:
    """Leave the foreground to a process of its own, and return what it says when it is ready."""
    config.folder.mkdir(parents=True, exist_ok=True)
    words = [*INVOCATION, "serve", *replace(config, detach=False, json=True).words()]
    log = config.folder / "launcher.log"
    with log.open("wb") as output:
        launcher = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=output, start_new_session=True
        )
    assert launcher.stdout
    try:
        with launcher.stdout:  # it keeps the deadline
            said = launcher.stdout.readline()
    except BaseException:  # Ctrl-C while it starts means: no server
        launcher.terminate()
        launcher.wait()
        raise
    if said and "stopped" not in (ready := json.loads(said)):
        return dict(ready)
    if said:
        raise UserError(f"{config.name} was stopped before it was ready.", "python main.py serve --status")
    launcher.wait()
    state = read(config.folder)
    if state and (state.pid, state.status) == (launcher.pid, "failed"):
        raise UserError(state.what, state.next)
    raise UserError(with_log("The launcher died.", log), f"less {log}")


def _claim(config: ServeConfig, tell: Callable[[str], None]) -> ServerState | None:
    """The server that was asked for, if it runs already; else its port is free now, and nothing old is in the way.

    Raises:
        UserError: Something else has the port, or the address cannot be had.
    """
    for state in known(config.logdir, port=config.port):
        if state.alive:
            if (state.server, state.path, state.model) == (config.name, config.model, config.served_model_name):
                return state
            what = f"{state.server} runs on port {config.port} already, with {state.model} ({state.status})."
            raise UserError(what, f"{state.stop}  # or take another --port")
        if state.status == "stale":
            tell(f"note: the launcher of {state.server}, process {state.pid}, died; clearing away what it left.")
        state.end()
    bound(config.host, config.port or 0).close()
    return None


def _stop(meant: list[ServerState]) -> list[str]:
    """Stop servers; their names. Raises `UserError` if several of them run."""
    running = [state for state in meant if state.alive]
    if len(running) > 1:
        raise UserError(f"{len(running)} servers run: {', '.join(state.server for state in running)}.", running[0].stop)
    for state in meant:
        state.end()
    return [state.server for state in meant]


def render(verb: str, result: Mapping[str, Any]) -> str:
    """What a person reads of a result of `serve`, in the way of the other verbs."""
    if "key" in result:
        return str(result["key"])
    if "stopped" in result:
        return f"stopped: {', '.join(result['stopped'])}" if result["stopped"] else "No server was running."
    if "servers" in result:
        return "\n".join(map(_line, result["servers"])) or "No server was started, or each was stopped."
    head = "runs already" if result.get("already") else f"is ready after {result['seconds']} s"
    parts = ", ".join(f"{name} {pid}" for name, pid in result["processes"].items())
    return "\n".join(
        [
            f"{result['server']} {head}: {result['model']} at {result['base_url']}",
            f"  use     {result['use']}",
            f"  stop    {result['stop']}",
            f"  logs    {result['logs']}",
            f"  pids    launcher {result['pid']}, {parts}",
        ]
    )


def _line(server: Mapping[str, Any]) -> str:
    died = [f"{name} started again {count}x" for name, count in server["restarts"].items()]
    match server["status"]:
        case "failed":
            said = f"failed: {server['what'].splitlines()[0]} next: {server['next']}"
        case "stale":
            said = f"its launcher, process {server['pid']}, is gone; next: {server['stop']}"
        case status:
            answering = "" if server["answers"] else ", does not answer"
            said = f"{status}{answering}, {server['model']} at {server['base_url']}, pid {server['pid']}"
    return ", ".join([f"{server['server']}: {said}", f"since {server['since']}", *died])

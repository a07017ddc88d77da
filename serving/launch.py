"""The `serve` verb: start a server, list those that run, or stop them."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ground.errors import UserError
from serving import ready
from serving.backends import commands
from serving.config import ROOT, ServeConfig
from serving.describe import seen, usage
from serving.ports import holder, port_is_free
from serving.preflight import check
from serving.processes import END_SECONDS, with_log
from serving.state import State, known, one_at_a_time, read
from serving.supervisor import PAUSE_SECONDS, Supervisor


def serve(
    config: ServeConfig, *, tell: Callable[[str], None], on_ready: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Do what the config says.

    Args:
        config: As given on the command line.
        tell: Where to say what happens meanwhile, a line at a time.
        on_ready: Called in the foreground when the server is ready, with what `--detach` would have returned.

    Returns:
        `{"servers": [...]}` for --status; `{"stopped": [names]}` for --stop, and at the end of the foreground; for
        --detach, or if that very server runs already, where it is and how to use it.

    Raises:
        UserError: It cannot be started, died, or does not end.
    """
    if config.status and config.stop:
        raise UserError("--status and --stop are two commands.", "python main.py serve --status")
    if config.status:
        return {"servers": [seen(state) for state in known(config.logdir, backend=config.backend, port=config.port)]}
    if config.stop:
        return {"stopped": _stop(config)}
    if not sys.platform.startswith("linux"):
        what = f"serve watches processes in Linux's way, and this is {sys.platform}."
        raise UserError(what, "python main.py train --teacher local  # or run the server by hand")
    config = config.resolved()
    for note in check(config):
        tell(f"note: {note}")
    return _detached(config, tell) if config.detach else _foreground(config, tell, on_ready)


def _foreground(
    config: ServeConfig, tell: Callable[[str], None], on_ready: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Serve until a signal comes."""
    started = time.monotonic()

    def announce(state: State, answer: ready.Answer) -> None:
        if answer.said and not answer.labelled:
            said = f"asked for a letter, {state.served} began with {answer.said[:40]!r}"
            tell(f"note: {said}; python main.py labels judge shows how well it labels.")
        on_ready({**usage(state), "seconds": round(time.monotonic() - started, 1)})

    with contextlib.ExitStack() as until_stopped:
        with one_at_a_time(config.logdir):
            if running := _claim(config, tell):
                return {**usage(running), "already": True}
            supervisor = until_stopped.enter_context(Supervisor(config, commands(config), tell))
        tell(f"starting {config.name}; logs in {config.folder}")
        supervisor.run(announce)
    return {"stopped": [config.name]}


def _detached(config: ServeConfig, tell: Callable[[str], None]) -> dict[str, Any]:
    """Leave the foreground to a process of its own, and return when it says that it is ready."""
    started = time.monotonic()
    with one_at_a_time(config.logdir):
        if running := _claim(config, tell):
            return {**usage(running), "already": True}
        config.folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, str(ROOT / "main.py"), "serve", *replace(config, detach=False, json=False).words()]
    log = config.folder / "launcher.log"
    tell(f"starting {config.name}; logs in {config.folder}")
    with log.open("wb") as output:
        launcher = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        # The launcher keeps the deadline; twice that is for one that hangs itself.
        while time.monotonic() - started < 2 * config.timeout + END_SECONDS:
            ended = launcher.poll() is not None  # before its state is read, which is then its last word
            state = read(config.folder)
            if ended:
                if state is not None and state.status == "failed":
                    raise UserError(state.what, state.next_step)
                if launcher.returncode == 0:
                    raise UserError(f"{config.name} was stopped before it was ready.", "python main.py serve --status")
                raise UserError(with_log("The launcher died.", log), f"less {log}")
            if state is not None and state.pid == launcher.pid and state.status == "ready":
                return {**usage(state), "seconds": round(time.monotonic() - started, 1)}
            time.sleep(PAUSE_SECONDS)
        raise UserError(f"The launcher of {config.name} hangs.", f"less {log}")
    except BaseException:  # Ctrl-C while it starts means: no server
        if launcher.poll() is None:
            launcher.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                launcher.wait(2 * END_SECONDS)
            launcher.kill()  # what it started ends with it
        raise


def _claim(config: ServeConfig, tell: Callable[[str], None]) -> State | None:
    """The server that was asked for, if it runs already; else its port is free now, and nothing old is in the way.

    Raises:
        UserError: Something else has the port, or the address cannot be had.
    """
    for state in known(config.logdir, port=config.port):
        wanted = (config.name, config.model, config.served_model_name)
        if state.alive and (state.name, state.model, state.served) == wanted:
            return state
        if state.alive:
            what = f"{state.name} runs on port {config.port} already, with {state.served} ({state.status})."
            raise UserError(what, f"python main.py serve --stop --port {config.port}  # or take another --port")
        if state.status == "stale":
            tell(f"note: the launcher of {state.name}, process {state.pid}, died; clearing away what it left.")
        state.clear()
    try:
        free = port_is_free(config.host, config.port or 0)
    except OSError as error:
        what = f"A server cannot listen on {config.host} port {config.port} here: {error.strerror or error}."
        raise UserError(what, "python main.py serve --host 127.0.0.1 --port 8000") from error
    if not free:
        process = holder(config.port or 0) or "a process of another user"
        next_step = f"python main.py serve --backend {config.backend} --port {(config.port or 0) % 65535 + 1}"
        raise UserError(f"Port {config.port} is in use by {process}.", next_step)
    return None


def _stop(config: ServeConfig) -> list[str]:
    """Stop the servers that are meant; their names. Raises `UserError` if several run and none was named."""
    meant = known(config.logdir, backend=config.backend, port=config.port)
    running = [state for state in meant if state.alive]
    if len(running) > 1:
        names = ", ".join(state.name for state in running)
        again = f"python main.py serve --stop --port {running[0].port}"
        raise UserError(f"{len(running)} servers run: {names}.", again)
    for state in meant:
        state.stop()
    return [state.name for state in meant]

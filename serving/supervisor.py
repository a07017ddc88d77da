"""Starts the processes of a server, waits until it answers, starts again what dies, and ends everything at the end."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from preceptor.ground.errors import UserError
from preceptor.serving.backends import environment
from preceptor.serving.causes import explain
from preceptor.serving.config import ServeConfig
from preceptor.serving.ports import listens
from preceptor.serving.processes import PAUSE_SECONDS, Command, Running, with_log
from preceptor.serving.ready import REQUEST_SECONDS, NotReady, ask, ask_agents
from preceptor.serving.state import ServerState, Status, launching, new_state

RESTARTS, WITHIN_SECONDS = 3, 600.0
REFUSED_SECONDS = 20.0  # FastChat refuses while its workers register


class Stopped(BaseException):
    """A signal asked for the end."""


def supervise(
    config: ServeConfig, plan: list[Command], tell: Callable[[str], None], on_ready: Callable[[ServerState, str], None]
) -> None:
    """Run a server, of a resolved config, until a signal asks for the end; nothing of it outlives the call.

    `tell` is given a line at a time of what happens, and `on_ready`, once, the first completion.

    Raises:
        UserError: It did not become ready, or died too often.
    """
    with launching(config.folder) as lock, _stopped_by_signals():
        server = _Supervisor(config, plan, tell, lock)
        try:
            try:
                server.run(on_ready)
            finally:
                server.end()
        except Stopped:
            server.state.forget()
        except UserError as error:  # kept for --status, and for the command that waits for --detach
            server.state.what, server.state.next = error.what, error.next_step
            server.write("failed")
            raise


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """The first signal raises `Stopped`, later ones nothing; what is ignored, as SIGHUP under nohup, stays ignored."""

    def stop(*_: object) -> NoReturn:
        for number in handlers:
            signal.signal(number, signal.SIG_IGN)
        raise Stopped

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {each: signal.signal(each, stop) for each in numbers if signal.getsignal(each) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _Supervisor:
    def __init__(self, config: ServeConfig, plan: list[Command], tell: Callable[[str], None], lock: int) -> None:
        self.config, self.plan, self.tell = config, plan, tell
        self.env, self.lock = environment(config), lock
        self.running: dict[str, Running] = {}
        self.deaths: dict[str, list[float]] = {command.name: [] for command in plan}
        self.state = new_state(config)
        for name in self.deaths:
            (config.folder / f"{name}.log").unlink(missing_ok=True)
        self.write("starting")

    def run(self, on_ready: Callable[[ServerState, str], None]) -> None:
        """Serve until something is raised."""
        said = self._await_ready()
        on_ready(self.state, said)
        while True:
            time.sleep(PAUSE_SECONDS)
            if self._clear_away():
                self._await_ready()
                self.tell(f"{self.config.name} answers again.")

    def end(self) -> None:
        """End all processes, side by side."""
        for process in self.running.values():
            process.release()
        for process in self.running.values():
            process.end()
        self.running.clear()

    def write(self, status: Status) -> None:
        """Write down what runs."""
        self.state.status = status
        self.state.processes = {name: process.pid for name, process in self.running.items()}
        self.state.restarts = {name: len(times) for name, times in self.deaths.items() if times}
        self.state.write()

    def _await_ready(self) -> str:
        """Start what does not run, until the server answers; what it said. Raises `UserError` as `supervise` does."""
        deadline = refusing_until = time.monotonic() + self.config.timeout
        missing = NotReady("nothing was started")
        while (left := min(deadline, refusing_until) - time.monotonic()) > 0:
            self._clear_away()
            self._start()
            try:
                said = self._ask(min(left, REQUEST_SECONDS))
                self.write("ready")
                return said
            except NotReady as error:
                missing = error
                refusing_until = min(refusing_until, time.monotonic() + REFUSED_SECONDS) if error.refused else deadline
            time.sleep(PAUSE_SECONDS)
        log = self.config.folder / f"{self.plan[0].name}.log"
        if missing.refused:
            meaning, next_step = explain(str(missing), None, self.config)
            what = f"{self.config.name} refuses to answer{f': {meaning}' if next_step else ''}.\n  | {missing}"
            raise UserError(what, next_step or f"less {log}")
        what = f"{self.config.name} was not ready within {self.config.timeout:g} s: {missing}."
        raise UserError(with_log(what, log), f"less {log}  # or a longer --timeout")

    def _start(self) -> None:
        """Start the commands that do not run and have what they need."""
        for command in self.plan:
            if command.name not in self.running and (command.needs is None or listens(command.needs)):
                self.running[command.name] = Running(command, self.config.folder, self.env, self.lock)
                self.write(self.state.status)

    def _ask(self, seconds: float) -> str:
        """What the server says to a question once all of it is there. Raises `NotReady`."""
        for command in self.plan:
            behind = command is not self.plan[0]  # the first one listens where users want it to, and is asked below
            if command.name not in self.running or (behind and not listens(command.port)):
                raise NotReady(f"{command.name} did not listen")
        asked = ask_agents if self.config.backend == "agents" else ask
        return asked(self.config.base_url, self.state.model, seconds=seconds)

    def _clear_away(self) -> bool:
        """Whether a process died; it is cleared away, to be started again.

        Raises:
            UserError: It died before the server was ever ready, or too often of late.
        """
        dead = [process for process in self.running.values() if process.code() is not None]
        for process in dead:
            name, now = process.command.name, time.monotonic()
            self.deaths[name].append(now)
            recent = sum(at > now - WITHIN_SECONDS for at in self.deaths[name])
            meaning, next_step = explain(process.said(), process.code(), self.config)
            died = f"{name} of {self.config.name} died"
            if self.state.status == "starting" or recent > RESTARTS:
                often = f"{recent} times within {WITHIN_SECONDS / 60:.0f} minutes"
                what = f"{died} {'before it was ready' if self.state.status == 'starting' else often}: {meaning}."
                raise UserError(with_log(what, process.log), next_step or f"less {process.log}")
            self.tell(f"{died} ({meaning}); starting it again, {recent} of {RESTARTS} times.")
            process.end()
            del self.running[name]
            self.write("restarting")
        return bool(dead)

"""Starts the processes of a server, waits until it answers, starts again what dies, and ends everything at the end."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from types import FrameType, TracebackType
from typing import Any

from ground.errors import UserError
from serving import ready
from serving.backends import environment
from serving.causes import explain
from serving.config import ServeConfig
from serving.ports import listens
from serving.processes import Command, Running, birth, with_log
from serving.state import Part, State, Status

RESTARTS, WITHIN_SECONDS = 3, 600.0
PAUSE_SECONDS = 0.2
REFUSED_SECONDS = 20.0  # FastChat refuses while its workers register


class Stopped(BaseException):
    """A signal asked for the end."""


class Supervisor:
    """One server for as long as it runs; a context manager, so that nothing of it outlives the block.

    Args:
        config: Resolved.
        plan: What to start; the first command answers on `config.port`.
        tell: Where to say what happens, a line at a time.
    """

    def __init__(self, config: ServeConfig, plan: list[Command], tell: Callable[[str], None]) -> None:
        self.config, self.plan, self.tell = config, plan, tell
        self.running: dict[str, Running] = {}
        self._env = environment(config)
        self._deaths: dict[str, list[float]] = {command.name: [] for command in plan}
        self._handlers: dict[int, Any] = {}
        self.state = State(
            name=config.name,
            status="starting",
            url=config.url,
            model=str(config.model),
            served=str(config.served_model_name),
            pid=os.getpid(),
            born=birth(os.getpid()),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            folder=str(config.folder),
        )

    def __enter__(self) -> "Supervisor":
        config = self.config
        config.folder.mkdir(parents=True, exist_ok=True)
        for command in self.plan:
            (config.folder / f"{command.name}.log").unlink(missing_ok=True)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup means that it goes on
                self._handlers[number] = signal.signal(number, _stop)
        self._write("starting")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        for number in self._handlers:
            signal.signal(number, signal.SIG_IGN)
        for process in self.running.values():
            process.release()
        for process in self.running.values():
            process.end()
        if isinstance(error, UserError):  # kept for --status, and for the command that waits for --detach
            self._write("failed", what=error.what, next_step=error.next_step)
        else:
            self.state.forget()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        return isinstance(error, Stopped)

    def run(self, on_ready: Callable[[State, ready.Answer], None]) -> None:
        """Serve until a signal asks for the end; `on_ready` is called once, when the server answers.

        Raises:
            UserError: It did not become ready, or died too often.
            Stopped: A signal came.
        """
        answer = self._await_ready()
        if isinstance(answer, Running):
            raise self._ended(answer, "before it was ready")
        self._write("ready")
        on_ready(self.state, answer)
        while True:
            self._clear_away(self._await_death())
            while isinstance(again := self._await_ready(), Running):
                self._clear_away(again)
            self._write("ready")
            self.tell(f"{self.state.name} answers again.")

    def _await_ready(self) -> ready.Answer | Running:
        """Start what does not run; the server's first answer, or the process that died before.

        Raises:
            UserError: The time is over.
        """
        deadline = refusing_until = time.monotonic() + self.config.timeout
        answer = ready.Answer(False, "nothing listens")
        while (left := min(deadline, refusing_until) - time.monotonic()) > 0:
            if dead := self._dead():
                return dead
            self._start()
            answer = self._ask(min(left, ready.REQUEST_SECONDS))
            if answer.ready:
                return answer
            refusing_until = min(refusing_until, time.monotonic() + REFUSED_SECONDS) if answer.refused else deadline
            time.sleep(PAUSE_SECONDS)
        log = self.config.folder / f"{self.plan[0].name}.log"
        if answer.refused:
            meaning, next_step = explain(answer.said, None, self.config)
            what = f"{self.state.name} refuses to answer{f': {meaning}' if next_step else ''}.\n  | {answer.said}"
            raise UserError(what, next_step or f"less {log}")
        what = f"{self.state.name} was not ready within {self.config.timeout:g} s: {answer.said}."
        raise UserError(with_log(what, log), f"less {log}  # or a longer --timeout")

    def _start(self) -> None:
        """Start the commands that do not run and have what they need."""
        waiting = [command for command in self.plan if command.name not in self.running]
        for command in waiting:
            if command.needs is None or listens("127.0.0.1", command.needs):
                self.running[command.name] = Running(command, self.config.folder, self._env)
                self._write(self.state.status)

    def _ask(self, seconds: float) -> ready.Answer:
        """Whether every command runs and listens, and the server labels a question."""
        host = self.config.reached_host
        reached = {command.name: listens(host, command.port) for command in self.plan[:1]}
        reached |= {command.name: listens("127.0.0.1", command.port) for command in self.plan[1:]}
        closed = [name for name, open_ in reached.items() if not open_ or name not in self.running]
        if closed:
            return ready.Answer(False, f"{', '.join(closed)} did not listen")
        return ready.ask(self.config.url, self.state.served, seconds=seconds)

    def _await_death(self) -> Running:
        while not (dead := self._dead()):
            time.sleep(PAUSE_SECONDS)
        return dead

    def _dead(self) -> Running | None:
        return next((process for process in self.running.values() if process.code is not None), None)

    def _clear_away(self, dead: Running) -> None:
        """Clear a process that died away, to be started again. Raises `UserError` if it died too often of late."""
        name, times = dead.command.name, self._deaths[dead.command.name]
        times.append(time.monotonic())
        recent = [at for at in times if at > time.monotonic() - WITHIN_SECONDS]
        if len(recent) > RESTARTS:
            raise self._ended(dead, f"{len(recent)} times within {WITHIN_SECONDS / 60:.0f} minutes")
        why = explain(dead.said(100), dead.code, self.config)[0]
        self.tell(f"{name} of {self.state.name} died ({why}); starting it again, {len(recent)} of {RESTARTS} times.")
        dead.end()
        del self.running[name]
        self._write("restarting")

    def _ended(self, process: Running, when: str) -> UserError:
        """The error for a process that died."""
        meaning, next_step = explain(process.said(200), process.code, self.config)
        what = f"{process.command.name} of {self.state.name} died {when}: {meaning}."
        return UserError(with_log(what, process.log), next_step or f"less {process.log}")

    def _write(self, status: Status, *, what: str = "", next_step: str = "") -> None:
        parts = tuple(
            Part(name, each.pid, birth(each.pid), str(each.log), len(self._deaths[name]))
            for name, each in self.running.items()
        )
        self.state = replace(self.state, status=status, parts=parts, what=what, next_step=next_step)
        self.state.write()


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)

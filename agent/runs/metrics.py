"""One call writes a run's numbers to TensorBoard, to `metrics.jsonl` and to the terminal; x is environment steps.

Losing metrics must not kill a run, so a full disk costs one warning here (checkpoints, which must not be lost, raise).
A number that is not finite does stop the run: nothing that is learned after it is of use.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams as hparams_summaries

from preceptor.agent.runs.settings import dotted
from preceptor.ground.atomic import write_file
from preceptor.ground.errors import UserError
from preceptor.ground.sealed import parsed, sealed, unsealed

FILE = "metrics.jsonl"
PREFIXES = ("rollout/", "eval/", "teacher/", "controller/", "high/", "low/", "halo/", "time/")
# What a clock measured: two runs of the same settings may differ in these and in nothing else.
CLOCKED = ("time/", "teacher/seconds", "teacher/latency")
ON_SCREEN = (
    *("rollout/success", "rollout/return", "rollout/guided_success", "teacher/queries", "controller/agreement"),
    *("halo/queries", "halo/cost", "halo/expected_error", "halo/option_error"),
    "time/fps",
)
SECONDS_BETWEEN_LINES = 2.0


class DivergedError(UserError):
    """A number that training came to is NaN or infinite."""


class Metrics:
    """The writer of one run, closed at the end of a `with`.

    Args:
        folder: The run directory; `metrics.jsonl` is appended to, TensorBoard gets a new event file.
        total_steps: Environment steps that the run is to take, for the progress display; 0 if unknown.
        quiet: Nothing on the terminal, warnings excepted.
        resumed_at: Step of the checkpoint that the run continues from; TensorBoard hides what came after it.
    """

    def __init__(
        self, folder: Path, *, total_steps: int = 0, quiet: bool = False, resumed_at: int | None = None
    ) -> None:
        self._file = (folder / FILE).open("ab", buffering=0)
        purge = None if resumed_at is None else resumed_at + 1
        self._tensorboard: SummaryWriter | None = SummaryWriter(str(folder), purge_step=purge)
        self._total, self._screen = total_steps, _Screen(total_steps, quiet)
        self.incomplete = False

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers at an environment step. Tags start with one of `PREFIXES`; keep them stable.

        Raises:
            DivergedError: A number is NaN or infinite; none of `values` is recorded.
        """
        numbers = {tag: float(value) for tag, value in values.items()}
        for tag, number in numbers.items():
            if not tag.startswith(PREFIXES):
                raise ValueError(f"tag {tag!r} starts with none of {PREFIXES}")
            if not math.isfinite(number):
                again = "repeat with --resume from the last checkpoint, or with another --seed or --preset"
                raise DivergedError(f"Stopped: `{tag}` became {number} at step {step:,}.", again)
        with self._losing():
            self._append((json.dumps(sealed({"step": step, **numbers})) + "\n").encode())

        def draw(board: SummaryWriter) -> None:
            for tag, number in numbers.items():
                board.add_scalar(tag, number, step)

        self._draw(draw)
        self._screen.show(step, numbers)

    def hparams(self, config: Mapping[str, Any], results: Mapping[str, float]) -> None:
        """Record the settings of a run, by dotted name, beside its results, for TensorBoard's HPARAMS table."""
        plain = {k: v if isinstance(v, bool | int | float | str) else json.dumps(v) for k, v in dotted(config).items()}
        summaries = hparams_summaries(plain, dict(results))
        self._draw(lambda board: [board._get_file_writer().add_summary(summary) for summary in summaries])

    def say(self, text: str) -> None:
        """A line for the person who watches: a phase that begins, a teacher that is switched off."""
        self._screen.say(text)

    def warn(self, text: str) -> None:
        """A line that is shown even if nothing else is to be."""
        self._screen.say(f"[yellow]warning: {escape(text)}", always=True)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Within it, a run that is quiet shows on the terminal how it gets on."""
        quiet, self._screen = self._screen, _Screen(self._total, quiet=False)
        try:
            yield
        finally:
            self._screen.close()
            self._screen = quiet

    def close(self) -> None:
        """Finish the files and the progress display. May be called twice."""
        self._screen.close()
        self._file.close()
        self._draw(SummaryWriter.close)
        self._tensorboard = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _draw(self, on: Callable[[SummaryWriter], object]) -> None:
        """Write to TensorBoard, whose writer does not survive a failure and is dropped then."""
        with self._losing():
            if self._tensorboard is not None:
                on(self._tensorboard)
                self._tensorboard.flush()

    def _append(self, line: bytes) -> None:
        """Write a whole line or none, so that a disk that fills up leaves a file that still parses."""
        size = os.fstat(self._file.fileno()).st_size
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError:
            os.ftruncate(self._file.fileno(), size)
            raise

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        """Where writing fails, warn once, and leave TensorBoard alone from then on."""
        try:
            yield
        except OSError as error:
            self._tensorboard = None
            if not self.incomplete:
                why = f"{error.strerror or error} ({self._file.name})"
                self.warn(f"metrics are incomplete from here on: {why}")
            self.incomplete = True


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a `metrics.jsonl`, none if there is no file. Lines that are damaged, or cut off by a kill, are left
    out."""
    return [row for _, row in _lines(path) if row is not None]


def damaged_lines(path: Path) -> int:
    """How many lines of a `metrics.jsonl` are damaged or cut off."""
    return sum(row is None for _, row in _lines(path))


def cut_after(path: Path, step: int) -> None:
    """Drop the lines that came after `step`, so that a resumed run writes what an uninterrupted one would have."""
    lines = list(_lines(path))
    kept = max((i for i, (_, row) in enumerate(lines, 1) if row is not None and row["step"] <= step), default=0)
    if lines:
        write_file(path, b"".join(line + b"\n" for line, _ in lines[:kept]))


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, float] | None]]:
    """Each line with the numbers that it holds, None if it is damaged."""
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            row = unsealed(parsed(line), required=False)
            if "step" not in row or not all(map(math.isfinite, row.values())):
                raise ValueError("a step is missing, or a number is not finite")
            yield line, row
        except (OverflowError, TypeError, ValueError):
            yield line, None


class _Screen:
    """The terminal's view, on stderr: a progress bar where one can be drawn, plain lines elsewhere."""

    def __init__(self, total_steps: int, quiet: bool) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._total, self._quiet, self._last = total_steps, quiet, -math.inf
        self._shown: dict[str, float] = {}
        steps = TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps")
        columns = (steps, BarColumn(20), TimeRemainingColumn(), TextColumn("{task.fields[text]}"))
        self._bar = Progress(*columns, console=self._console, auto_refresh=False)
        if total_steps and not quiet and sys.stderr.isatty():
            self._bar.add_task("", total=total_steps, text="")
            self._bar.start()

    def show(self, step: int, numbers: Mapping[str, float]) -> None:
        shown = {tag: number for tag, number in numbers.items() if tag in ON_SCREEN or tag.startswith("eval/")}
        if self._bar.task_ids:
            self._shown |= {tag: number for tag, number in shown.items() if not tag.startswith("time/")}
            self._bar.update(self._bar.task_ids[0], completed=step, text=_one_line(self._shown), refresh=True)
            return
        due = time.monotonic() - self._last > SECONDS_BETWEEN_LINES or any(tag.startswith("eval/") for tag in shown)
        if shown and due and not self._quiet:
            of_total = f"/{self._total:,}" if self._total else ""
            self.say(f"step {step:,}{of_total}  {_one_line(shown)}")
            self._last = time.monotonic()

    def say(self, text: str, *, always: bool = False) -> None:
        if always or not self._quiet:
            self._console.print(text)

    def close(self) -> None:
        if self._bar.task_ids:
            self._bar.stop()


def _one_line(numbers: Mapping[str, float]) -> str:
    return "  ".join(f"{tag} {number:{',.0f' if abs(number) >= 100 else '.3g'}}" for tag, number in numbers.items())

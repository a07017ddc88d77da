"""What a run of hvd found about its demonstrations: how much of each action group it copies when, in pictures."""

import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from preceptor.agent.attribution import fault_auc, ranks
from preceptor.agent.config import from_plain
from preceptor.agent.data.recording import Recording, faults_of
from preceptor.agent.data.views import windows
from preceptor.agent.demonstrating import kept_demonstrations
from preceptor.agent.flags import ReportConfig
from preceptor.agent.labelling.frames import replayed
from preceptor.agent.runs.pictures import captioned, drawn, write_film
from preceptor.agent.runs.run import Run
from preceptor.envs.action_groups import grouped
from preceptor.envs.catalog import get_task
from preceptor.envs.task import Task
from preceptor.ground.atomic import write_file
from preceptor.ground.errors import UserError

LOW = 0.25  # the share of each group's steps whose weights are called low
_SHOWN, _FILMED = 12, (0, 1, -1)  # demonstrations as strips; those in the film, from the worst on
_SPEED, _REST = 8, 8  # pictures a second; pictures for which the last one stays
_NAMES, _ROW, _MARGIN, _TEXT = 70, 16, 10, 13  # pixels
_WORST, _MIDDLE, _BEST = np.array([[213, 94, 0], [255, 255, 255], [0, 114, 178]])  # Okabe and Ito (2008)
_LEGEND = "orange: low weight, blue: high; framed: truly faulty"


class Weighed(NamedTuple):
    """The demonstrations that a run learned from, and the weights that it gave them.

    Attributes:
        names: Of the G groups.
        weights: float64 [N, T, G], at each step the mean over the chunks that hold it, by which it is copied; nan where
            nothing was done.
        rank: float64 [N, T, G], the share of the group's steps that weigh less, equal ones counted half; nan likewise.
        faulty: bool [N, T, G], the truth; None where the data do not tell it.
    """

    task: Task
    recording: Recording
    names: tuple[str, ...]
    weights: NDArray[np.float64]
    rank: NDArray[np.float64]
    faulty: NDArray[np.bool_] | None

    @property
    def low(self) -> NDArray[np.float64]:
        """Of each demonstration and group, the share of steps whose weight is low, [N, G]."""
        return (self.rank < LOW).sum(1) / self.recording.acted.sum(1)[:, None]

    @property
    def order(self) -> NDArray[np.int64]:
        """Demonstrations [N], those with most low weights first."""
        return np.argsort(-self.low.mean(1), kind="stable")


def weighing_run(name: str, logdir: str, task: str | None = None) -> Run:
    """The run of hvd of a name or path. Raises `UserError` if it is not there, not of hvd, or has several seeds."""
    with suppress(UserError):
        return Run.find(logdir, "hvd", task, name)
    run = Run.find(logdir, None, task, name)
    what = f"{run.path} is a run of {run.config.get('method')}, and only hvd weighs its demonstrations."
    raise UserError(what, f"python main.py train --method hvd --task {run.config.get('task')} --savedir weighed")


def weighed(run: Run) -> Weighed:
    """What a run of hvd has found.

    Raises:
        UserError: Its critic is not finished.
        CheckpointError: It has saved nothing yet, or what it saved is damaged.
    """
    config = from_plain(run.config)
    task, settings = get_task(config.task, config.teacher_flaw), config.settings
    step, tree = run.load()
    by_chunk: NDArray[np.float32] = tree["method"]["weights"]
    if not len(by_chunk):
        what = f"The critic of {run.path} is not finished after {step:,} steps, so that nothing is weighed yet."
        raise UserError(what, "repeat the command of its training with --resume")
    recording, _ = kept_demonstrations(run)
    groups, view = grouped(task, settings.groups), windows(recording, settings.chunk)
    names = (*(("option",) if settings.with_option else ()), *groups)
    weights, count = np.zeros((*recording.option.shape, len(names))), np.zeros((*recording.option.shape, 1))
    for offset in range(settings.chunk):
        rows = np.flatnonzero(view.count > offset)
        at = view.episode[rows], view.start[rows] + offset
        weights[at] += by_chunk[rows]
        count[at] += 1
    weights = np.where(count > 0, weights / np.maximum(count, 1), np.nan)
    faulty = faults_of(recording, task, groups.values(), settings.with_option)
    rank = np.full(weights.shape, np.nan)
    by_step = weights[recording.acted].T  # [G, steps]
    rank[recording.acted] = np.stack([ranks(of) - 0.5 for of in by_step], 1) / by_step.shape[1]
    return Weighed(task, recording, names, weights, rank, faulty)


def report_faults(config: ReportConfig) -> dict[str, Any]:
    """`report RUN --faults`: a row per group, paths of the `strips` (PNG) and of the `film` (MP4) beside it, or
    as `not_drawn` why that is missing.

    Raises:
        UserError: No run of hvd is named, or it has weighed nothing.
    """
    if len(config.runs) != 1:
        raise UserError("--faults shows what one run of hvd found.", "python main.py report NAME --faults")
    run = weighing_run(config.runs[0], config.logdir, config.task)
    found = weighed(run)
    path = Path(config.plot or run.path / "videos" / "faults.png")
    chosen = np.unique(np.linspace(0, len(found.order) - 1, _SHOWN).round().astype(int))
    picture = io.BytesIO()
    strips(found, found.order[chosen].tolist()).save(picture, "PNG")
    write_file(path, picture.getvalue())
    result: dict[str, Any] = {"run": str(run.path), "table": _by_group(found), "strips": str(path)}
    try:
        filmed = list(dict.fromkeys(found.order[n % len(found.order)] for n in _FILMED))
        result["film"] = str(write_film(_frames(found, filmed), path.with_suffix(".mp4"), _SPEED))
    except UserError as error:
        result["not_drawn"] = str(error)
    return result


def _by_group(found: Weighed) -> list[dict[str, str]]:
    """Weights of each group, and how well low ones tell its faults where the data know them."""
    rows, acted = [], found.recording.acted
    for g, name in enumerate(found.names):
        weights = found.weights[..., g][acted]
        quartiles = " ".join(f"{value:.2f}" for value in np.quantile(weights, (0.25, 0.5, 0.75)))
        row = {"group": name, "weights, quartiles": quartiles}
        if found.faulty is not None:
            truth = found.faulty[..., g][acted]
            auc = fault_auc(-weights, truth)
            row |= {"truly faulty": f"{truth.mean():.1%}", "AUC": "" if np.isnan(auc) else f"{auc:.2f}"}
        rows.append(row)
    return rows


def strip(found: Weighed, n: int, width: int, cursor: int | None = None) -> Image.Image:
    """A demonstration as a row per group, from its first step to its last: orange where the weight is among the group's
    low ones, blue among the high, framed where the group was truly faulty, with a mark at the step `cursor`."""
    steps, height = int(found.recording.lengths[n]) - 1, _ROW * len(found.names) + 2 * _MARGIN
    picture = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=_TEXT)
    left = _NAMES + np.arange(steps + 1) * ((width - _NAMES - _MARGIN) / steps)
    for g, name in enumerate(found.names):
        top, bottom = _MARGIN + _ROW * g, _MARGIN + _ROW * (g + 1) - 3
        pen.text((_MARGIN, top - 2), name[:9], "black", font)
        for t, rank in enumerate(found.rank[n, :steps, g].tolist()):
            pen.rectangle((left[t], top, left[t + 1], bottom), _colour(rank))
        for start, stop in _runs(found.faulty[n, :steps, g]) if found.faulty is not None else ():
            pen.rectangle((left[start], top, left[stop], bottom), outline="black", width=2)
    if cursor is not None:
        middle = (left[min(cursor, steps - 1)] + left[min(cursor, steps - 1) + 1]) / 2
        pen.line((middle, 2, middle, height - 3), "black", 3)
        pen.polygon(((middle - 6, 0), (middle + 6, 0), (middle, 8)), "black")
    return picture


def _colour(rank: float) -> tuple[int, int, int]:
    """From orange over white to blue."""
    end = _WORST if rank < 0.5 else _BEST
    red, green, blue = (_MIDDLE + (end - _MIDDLE) * abs(2 * rank - 1)).round().astype(int).tolist()
    return red, green, blue


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where flags [T] are set: the first step of each run, and the one behind its last."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def strips(found: Weighed, chosen: Sequence[int], width: int = 900) -> Image.Image:
    """Several demonstrations, one strip below the other, and what the colours mean."""
    title, font = 2 * _TEXT, ImageFont.load_default(size=_TEXT)
    parts = [(_summary(found, n), strip(found, n, width)) for n in chosen]
    canvas = Image.new("RGB", (width, title + sum(title + part.height for _, part in parts)), "white")
    pen, top = ImageDraw.Draw(canvas), title
    pen.text((_MARGIN, 4), f"{found.task.name}, demonstrations from the worst to the best; {_LEGEND}", "dimgrey", font)
    for words, part in parts:
        pen.text((_MARGIN, top + 4), words, "black", font)
        canvas.paste(part, (0, top + title - _MARGIN // 2))
        top += title + part.height
    return canvas


def _summary(found: Weighed, n: int) -> str:
    won = found.recording.extra.get("success")
    outcome = "" if won is None else ", solved" if won[n].any() else ", not solved"
    return f"demonstration {n}{outcome}, return {found.recording.returns[n]:.2f}, low weights {found.low[n].mean():.0%}"


def _frames(found: Weighed, chosen: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    """Demonstrations played again on their levels, with strips below. Raises `UserError` if that is impossible."""
    for n in chosen:
        for t, env in enumerate(replayed(found.task, found.recording, n)):
            acted = t < found.recording.lengths[n] - 1
            low = [name for name, rank in zip(found.names, found.rank[n, t], strict=True) if rank < LOW]
            words = f"low: {', '.join(low) or 'none'}" if acted else "the end"
            picture = captioned(drawn(env), words, f"{_summary(found, n)}, step {t}")
            below = np.asarray(strip(found, n, picture.shape[1], t))
            frame = np.concatenate([picture, below])
            for _ in range(1 if acted else _REST):
                yield frame

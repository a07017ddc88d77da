"""What a run of helios found in its demonstrations: its kinds of skills, in a table and in pictures."""

import io
from contextlib import closing, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from preceptor.agent.config import from_plain
from preceptor.agent.data.recording import Recording
from preceptor.agent.demonstrating import kept_demonstrations
from preceptor.agent.dpm import DPMixture
from preceptor.agent.flags import ReportConfig
from preceptor.agent.labelling.frames import replayed
from preceptor.agent.methods.helios import Helios
from preceptor.agent.methods.protocol import Parts
from preceptor.agent.runs.pictures import drawn
from preceptor.agent.runs.run import Run
from preceptor.envs.catalog import get_task
from preceptor.envs.task import Task
from preceptor.ground.atomic import write_file
from preceptor.ground.device import normal, to_numpy
from preceptor.ground.errors import UserError

_SHARES = 0.005, 0.01, 0.02, 0.04  # rho, for which the mixture is fitted anew
_FITTED = 5_000  # windows that it is fitted to
_SHOWN = 2  # windows of each kind in the picture
_SIDE = 320  # width of a frame in pixels


class Found(NamedTuple):
    """The windows of a run's demonstrations, and the kind of skill that each is.

    Attributes:
        method: The method as the run left it.
        mean: float64 [M, D], of the M windows' latents; `log_std` likewise.
        kind: int64 [M], the likeliest component of the mixture.
        central: float64 [M], the log-density of that component.
        episode: int64 [M], the demonstration of each window.
        start: int64 [M], its first step.
        option: int64 [M], the option in its middle; -1 where the data do not tell it.
    """

    task: Task
    method: Helios
    recording: Recording
    mean: torch.Tensor
    log_std: torch.Tensor
    kind: NDArray[np.int64]
    central: NDArray[np.float64]
    episode: NDArray[np.int64]
    start: NDArray[np.int64]
    option: NDArray[np.int64]

    @property
    def kinds(self) -> int:
        """K, the number of the mixture's components."""
        return len(self.method.mixture.weight)

    @property
    def horizon(self) -> int:
        """H, steps of a window."""
        return self.method.settings.horizon

    def most_central(self, k: int, count: int) -> list[int]:
        """Windows of a kind that are most like it, each of another demonstration."""
        rows = np.flatnonzero(self.kind == k)
        rows = rows[np.argsort(-self.central[rows], kind="stable")]
        _, first = np.unique(self.episode[rows], return_index=True)
        return rows[np.sort(first)][:count].tolist()


def skill_run(name: str, logdir: str, task: str | None = None) -> Run:
    """The run of helios of a name or path. Raises `UserError` if it is not there, not of helios, or has more seeds."""
    with suppress(UserError):
        return Run.find(logdir, "helios", task, name)
    run = Run.find(logdir, None, task, name)
    if run.config.get("method") == "helios":
        return run
    what = f"{run.path} is a run of {run.config.get('method')}, and only helios finds skills in demonstrations."
    raise UserError(what, "python main.py train --method helios --task KitchenKinematic")


def found_by(run: Run) -> Found:
    """What a run of helios has found.

    Raises:
        UserError: Its skills are not learned yet.
        CheckpointError: It has saved nothing yet, or what it saved is damaged.
    """
    config = from_plain(run.config)
    task = get_task(config.task, config.teacher_flaw)
    step, tree = run.load()
    if not tree["method"]["fits"]:
        what = f"The skills of {run.path} are not learned after {step:,} steps."
        raise UserError(what, "repeat the command of its training with --resume")
    config = replace(config, settings=replace(config.settings, online=0))
    recording, _ = kept_demonstrations(run)
    method = Helios(Parts(task, config, np.random.SeedSequence(config.seed)))
    method.load_policy(tree["method"])
    method.begin(recording)
    mean, log_std = method.latents(method.rows)
    densities = to_numpy(method.mixture.log_prob(mean))
    episode, start = method.windows.episode[method.rows], method.windows.start[method.rows]
    option = recording.option[episode, start + config.settings.horizon // 2]
    return Found(task, method, recording, mean, log_std, densities.argmax(1), densities.max(1), episode, start, option)


def agreement(kind: NDArray[np.int64], option: NDArray[np.int64]) -> tuple[float, float]:
    """Normalised mutual information (by the mean of the entropies) and purity
    of kinds [M] against options [M]."""
    _, rows = np.unique(kind, return_inverse=True)
    _, columns = np.unique(option, return_inverse=True)
    joint = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(joint, (rows, columns), 1)
    joint /= len(kind)
    entropy = [-(p * np.log(p)).sum() for p in (joint.sum(1), joint.sum(0), joint[joint > 0])]
    mean = (entropy[0] + entropy[1]) / 2
    information = (entropy[0] + entropy[1] - entropy[2]) / mean if mean > 0 else 1.0
    return float(np.clip(information, 0, 1)), float(joint.max(1).sum())


def kinds_by_share(found: Found, seed: int = 0) -> dict[float, int]:
    """K by rho: of mixtures that are fitted anew to the latents, each from one component."""
    rng, settings = np.random.default_rng(seed), found.method.settings
    rows = rng.permutation(len(found.mean))[:_FITTED]
    mean, log_std = found.mean[rows], found.log_std[rows]
    skills = torch.addcmul(mean, log_std.exp(), normal(mean.shape, torch.Generator().manual_seed(seed)))
    kinds = {}
    for share in _SHARES:
        mixture = DPMixture(settings.dims, settings.concentration, share)
        kinds[share] = mixture.fit(skills, np.random.default_rng(seed), warm=False).components
    return kinds


def stays(found: Found) -> list[list[int]]:
    """Of each kind, for how many steps it is that of the windows that begin there, each time that it is."""
    lengths: list[list[int]] = [[] for _ in range(found.kinds)]
    order = np.lexsort((found.start, found.episode))
    kind, episode = found.kind[order], found.episode[order]
    edges = np.flatnonzero((np.diff(kind) != 0) | (np.diff(episode) != 0)) + 1
    for start, stop in pairwise([0, *edges.tolist(), len(kind)]):
        lengths[kind[start]].append(stop - start)
    return lengths


def report_skills(config: ReportConfig) -> dict[str, Any]:
    """`report RUN --skills`: a row per kind of skill, the `summary`, and the path of the `picture` (PNG), or as
    `not_drawn` why it is missing.

    Raises:
        UserError: No run of helios is named, or it has not learned its skills.
    """
    if len(config.runs) != 1:
        raise UserError("--skills shows what one run of helios found.", "python main.py report NAME --skills")
    run = skill_run(config.runs[0], config.logdir, config.task)
    found = found_by(run)
    kinds = kinds_by_share(found)
    result: dict[str, Any] = {"run": str(run.path), "kinds": found.kinds}
    result["kinds_by_share"] = {str(share): count for share, count in kinds.items()}
    words = [f"{found.kinds} kinds of skills in {len(found.kind):,} windows of {found.horizon} steps"]
    told = found.option >= 0
    if told.any():
        result["nmi"], result["purity"] = agreement(found.kind[told], found.option[told])
        words.append(f"against the true options: NMI {result['nmi']:.2f}, purity {result['purity']:.2f}")
    words.append("kinds by rho: " + ", ".join(f"{share} {count}" for share, count in kinds.items()))
    result |= {"summary": "\n".join(words), "table": _by_kind(found)}
    path = Path(config.plot or run.path / "videos" / "skills.png")
    try:
        picture = io.BytesIO()
        _picture(found).save(picture, "PNG")
        write_file(path, picture.getvalue())
        result["picture"] = str(path)
    except UserError as error:
        result["not_drawn"] = str(error)
    return result


def _by_kind(found: Found) -> list[dict[str, str]]:
    """How often each kind is, when, with which option, and for how long."""
    progress = found.start / (found.recording.lengths[found.episode] - 1)
    rows = []
    for k, lengths in enumerate(stays(found)):
        own = found.kind == k
        row = {"skill": str(k), "share": f"{own.mean():.1%}"}
        if own.any():
            row |= {"progress": f"{progress[own].mean():.2f}", "stay, steps": f"{np.mean(lengths):.1f}"}
            told = found.option[own & (found.option >= 0)]
            if len(told):
                counts = np.bincount(told)
                row["most frequent option"] = found.task.options[int(counts.argmax())].words
                row["of it"] = f"{counts.max() / len(told):.0%}"
        rows.append(row)
    return rows


def _picture(found: Found) -> Image.Image:
    """A row per kind: the first and the last frame of its most central windows, drawn from their levels.

    Raises:
        UserError: A window cannot be played again, or nothing here can draw.
    """
    rows = []
    for k in range(found.kinds):
        frames = []
        for window in found.most_central(k, _SHOWN):
            n, start = int(found.episode[window]), int(found.start[window])
            frames += _framed(found, n, (start, start + found.horizon), f"skill {k}")
        if frames:
            rows.append(np.concatenate(frames + [np.full_like(frames[0], 255)] * (2 * _SHOWN - len(frames)), 1))
    return Image.fromarray(np.concatenate(rows))


def _framed(found: Found, n: int, steps: tuple[int, int], words: str) -> list[NDArray[np.uint8]]:
    """Small pictures of a demonstration at two steps."""
    frames = []
    with closing(replayed(found.task.demonstrated, found.recording, n)) as replay:
        for t, env in enumerate(replay):
            if t in steps:
                frame = Image.fromarray(drawn(env))
                frame = frame.resize((_SIDE, _SIDE * frame.height // frame.width))
                ImageDraw.Draw(frame).text((4, 2), f"{words}, demonstration {n}, step {t}", "dimgrey")
                frames.append(np.asarray(frame))
            if t >= steps[1]:
                break
    return frames

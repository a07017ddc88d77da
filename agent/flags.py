"""What can be said to the verbs other than train. The text under each field is its help; nothing heavy is imported."""

from dataclasses import dataclass, field
from typing import Literal

import tyro

from preceptor.ground.errors import UserError, unknown_name
from preceptor.ground.ranges import Count, CountOrNone, Levels, LevelsOrNone, Share, Threads
from preceptor.teacher.config import TeacherConfig

PLAYERS = ("teacher", "student", "controller", "prior", "scripted", "random", "llm-agent", "served")


@dataclass(frozen=True)
class EvalConfig:
    """Compare players on held-out levels, every player on the same ones, sampled and greedy."""

    task: str = "SimpleDoorKey"
    """Task to play."""
    loaddir: str | None = None
    """Name or path of the run to judge; the newest of the task if not given. Its --seeds are averaged."""
    method: str | None = None
    """Method of that run, where two methods have a run of that name."""
    logdir: str = "log"
    """Where runs live."""
    savedir: str | None = None
    """Folder inside the run's (or a full path) for the result and the videos; the run's own if not given."""
    compare: str | None = None
    """Players, with commas: teacher, student, controller, prior (what held a student of helios, by itself), scripted,
    random, llm-agent (a language model by itself, asked at each decision), served (an agent of --server). The student
    alone if not given."""
    server: str | None = None
    """Of served: address of a policy server; its key is read from PRECEPTOR_SERVER_KEY. If no --task is given, that of
    the agent is played."""
    agent: str | None = None
    """Of served: the agent's name, or NAME@VERSION; may be left out where one is served."""
    agent_asks: Literal["option", "action"] = "option"
    """What llm-agent is asked for: option (a legal one, which the task's scripted skill carries out) or action (one of
    the task's named actions, at every step)."""
    agent_history: CountOrNone | None = None
    """Of llm-agent: past observations and choices in each prompt; 8 if not given, none with --prompt compact."""
    eval_teacher: bool = False
    """Judge the teacher instead (IHAC also says --eval_meta_controller)."""
    seeds: str = "1000000:1000500"
    """Levels A:B, B not included; those below 1000000 are for training and refused."""
    video: CountOrNone = 0
    """Write a video of this many episodes of the student (else of the first player), with the option or the subgoal as
    its caption, and of mazes a map of these episodes and their subgoals beside it."""
    batch: Count = 256
    """Environments side by side."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """As in train; of what is not said, the run's own."""
    teacher_flaw: Literal["lava", "colours"] | None = None
    """As in train; the run's own if not given."""
    threads: Threads = 1
    """Threads of torch, and of mazes, kitchens or robots side by side."""
    device: str = "auto"
    """As in train."""
    quiet: bool = False
    """No progress display."""
    json: bool = False
    """Print one line of JSON on stdout and everything else on stderr."""
    debug: bool = False
    """Show tracebacks."""
    said: tyro.conf.Suppress[tuple[str, ...]] = ()
    """Flags that were given, by name: what of the teacher is not the run's own."""

    @property
    def levels(self) -> range:
        """Level seeds to play. Raises `UserError` if they are not held out."""
        return _levels(self.seeds)

    @property
    def players(self) -> tuple[str, ...]:
        """Who plays. Raises `UserError` for an unknown player."""
        named = "teacher" if self.eval_teacher and not self.compare else self.compare or "student"
        players = tuple(dict.fromkeys(player.strip() for player in named.split(",") if player.strip()))
        if not players:
            raise UserError(f"--compare {named!r} names no player.", f"--compare {','.join(PLAYERS)}")
        for player in players:
            if player not in PLAYERS:
                raise unknown_name("player", player, PLAYERS, f"--compare {','.join(PLAYERS)}")
        return players + (("teacher",) if self.eval_teacher and "teacher" not in players else ())


def _levels(text: str) -> range:
    from preceptor.ground.level_seeds import split_range

    first, colon, end = text.partition(":")
    good, (held_out, after) = "--seeds 1000000:1000500", split_range("eval")
    try:
        levels = range(int(first), int(end) if colon else int(first) + 1)
    except ValueError as error:
        raise UserError(f"--seeds {text} is not of the form A:B.", good) from error
    if not levels:
        raise UserError(f"--seeds {text} holds no level.", good)
    if levels.start < held_out or levels.stop > after:
        what = f"levels below {held_out} are for training, and {after} is the end"
        raise UserError(f"--seeds {text} is not held out: {what}.", good)
    return levels


@dataclass(frozen=True)
class DemosConfig:
    """Record demonstrations of a task's expert as a dataset of Minari or LeRobot, which `train --demos` reads."""

    task: str = "RescueWorld-n3"
    """Task that is demonstrated."""
    to: str = ""
    """Id of the new dataset, such as preceptor/rescueworld-n3/expert-v0; of LeRobot's, its folder."""
    format: Literal["minari", "lerobot"] = "minari"
    """minari (HDF5, in Minari's own folder) or lerobot (v3, Parquet)."""
    count: Levels = 100
    """Demonstrations, one per training level."""
    seed: int = 0
    """Draws levels, ways and mistakes."""
    epsilon: Share | None = None
    """Share of actions that are random; where actions are vectors, deviation of the noise on them. If not given, the
    task's own: 0.1 of most."""
    quality: Literal["expert", "mixed"] = "expert"
    """expert, or mixed: groups of the expert's actions (an arm, a gripper) are faulty at times, and the dataset says
    when."""
    fault_rate: Share = 0.4
    """Of mixed quality: probability that a group is faulty in a segment."""
    fault_kinds: str = "reversed,frozen,biased"
    """Of mixed quality: what a faulty group does, with commas: reversed, frozen, biased, delayed."""
    segment: Count = 8
    """Of mixed quality: steps for which a group is faulty or not."""
    optimal: LevelsOrNone = 0
    """Of mixed quality: demonstrations without faults that are added, marked as optimal."""
    logdir: str = "log"
    """Where runs live: a task may be named as its runs are."""
    json: bool = False
    """Print one line of JSON on stdout and everything else on stderr."""
    debug: bool = False
    """Show tracebacks."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of fault, by name."""
        return tuple(dict.fromkeys(kind.strip() for kind in self.fault_kinds.split(",") if kind.strip()))


@dataclass(frozen=True)
class ExportConfig:
    """Write a trained agent as a folder that is played elsewhere (`preceptor.runtime`), checked against its run, with a
    model card."""

    run: tyro.conf.Positional[str]
    """Name or path of the run."""
    format: Literal["onnx", "torch"] = "onnx"
    """onnx (played by ONNX Runtime, without torch) or torch (any method; played with torch)."""
    to: str | None = None
    """Folder of the export, RUN/export/FORMAT if not given. An export that is there is replaced."""
    observations: Count = 1_000
    """Observations at which it is compared with the run: the same greedy choices, probabilities to 1e-5."""
    task: str | None = None
    """Task of the run, where several have one of this name."""
    method: str | None = None
    """Method of the run, likewise."""
    logdir: str = "log"
    """Where runs live."""
    json: bool = False
    """Print one line of JSON on stdout."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class ReportConfig:
    """Print what runs came to and draw their learning curves; runs of several seeds as mean and interval."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names or paths of runs; all runs of the task if none is given."""
    task: str | None = None
    """Only runs of this task."""
    logdir: str = "log"
    """Where runs live."""
    faults: bool = False
    """Of a run of hvd: show how much of each action group it copies at each step of its demonstrations, as strips and
    under a film of the two worst and the best."""
    skills: bool = False
    """Of a run of helios: show the kinds of skills that it found in its demonstrations, in a table and in pictures."""
    plot: str | None = None
    """PNG file for the curves, LOGDIR/report.png if not given; with --faults for the strips, beside the film; with
    --skills for the frames."""
    json: bool = False
    """Print one line of JSON on stdout instead of the table."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class NamingConfig:
    """Name the kinds of skills that a run of helios found: from scenes before and after some windows of each, in words
    of the task's options, or as you say. Names are left beside the run, in skills.json."""

    run: tyro.conf.Positional[str]
    """Name or path of a run of helios."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """Who names them, and how it is asked; --teacher none keeps the names that are there."""
    name: tuple[str, ...] = ()
    """Names of yours: --name 3="open the microwave" 5="push the kettle"."""
    windows: Count = 24
    """Windows of each kind that are looked at."""
    seed: CountOrNone = 0
    """Seed of their drawing."""
    task: str | None = None
    """Task of the run, where several have one of this name."""
    logdir: str = "log"
    """Where runs live."""
    json: bool = False
    """Print one line of JSON on stdout instead of the table."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class DoctorConfig:
    """Check the installation, the built-in language model, rendering, the disk, and on request a run or data."""

    run: str | None = None
    """Name or path of a run to verify: settings, manifest, metrics, and that its checkpoints load. With --data, a run
    of hvd that learned from these demonstrations: its weights say which groups look bad."""
    data: str | None = None
    """Look at demonstrations instead, as train --demos names them: which ones and which action groups look bad."""
    task: str | None = None
    """Task of the demonstrations; that of --run if not given."""
    logdir: str = "log"
    """Where runs live."""
    json: bool = False
    """Print one line of JSON on stdout instead of the table."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class ListConfig:
    """List what there is."""

    json: bool = False
    """Print one line of JSON on stdout instead of the table."""
    debug: bool = False
    """Show tracebacks."""

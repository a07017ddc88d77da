"""The settings of `main.py label`. The text under each field is its `--help`; nothing heavy is imported here."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Interval

from preceptor.ground.ranges import CountOrNone, LevelsOrNone, PersonName, Threads
from preceptor.teacher.config import TeacherConfig


@dataclass(frozen=True)
class LabelConfig:
    """Answer HALO's questions about demonstrations in a browser: which option drove a step? It can be left and taken up
    at any time, and every answer is on the disk before the next question is shown."""

    task: str = "RescueWorld-n3"
    """Task that was demonstrated."""
    savedir: str = "labelled"
    """Name of the run, which goes to LOGDIR/halo/TASK/SAVEDIR; one that is there is gone on with."""
    logdir: str = "log"
    """Where runs live."""
    annotator: PersonName = "me"
    """Your name: it stands beside your answers, and you can take back only your own."""
    answers: str | None = None
    """A ledger.jsonl of another run of the same demonstrations: people's answers there count where they fit."""
    again: bool = False
    """Answer what others have answered, to see how far people agree; nothing is learnt from it."""
    review: str | None = None
    """Instead: go through the labels that a teacher gave, those it was least sure of first. A run by name or path, or a
    label store (SQLite); corrections go into it with source `human`."""
    budget: str | None = None
    """Questions: a number, or a share of the demonstrations' steps; 4% if the run has none yet."""
    demos: str | None = None
    """Demonstrations, as in train; 100 if the run has none yet."""
    rule: str | None = None
    """Where to ask, as in train; auto if the run has none yet."""
    policies: str | None = None
    """As in train; auto if the run has none yet."""
    preset: str | None = None
    """As in train; small if the run has none yet."""
    seed: CountOrNone | None = None
    """As in train; 0 if the run has none yet."""
    stop_error: float | None = None
    """As in train; the run's own if not given."""
    controller: str | None = None
    """Run, or folder, of a distilled controller whose opinion is shown; the newest of the task, if there is one."""
    weights: str | None = None
    """A run of hvd that learned from the same demonstrations (the same --demos and --seed): how much of each action
    group it copies is shown below the options of each step."""
    teacher: TeacherConfig = field(default_factory=lambda: TeacherConfig("none"))
    """A teacher whose opinion is shown, too (none: no opinion); its answers are kept."""
    eval_episodes: LevelsOrNone = 100
    """Held-out levels on which the student is judged when all is answered; 0 for none."""
    port: Annotated[int, Interval(ge=0, le=65535)] = 8321
    """Port on this machine, which other machines cannot reach; 0 for any free one."""
    browser: bool = True
    """Open the page in the browser."""
    threads: Threads = 1
    """Threads of torch, and of mazes, kitchens or robots side by side."""
    json: bool = False
    """Print one line of JSON on stdout and everything else on stderr."""
    debug: bool = False
    """Show tracebacks."""

"""What can be said on the command line. The text under each field is its `--help`; nothing heavy is imported here."""

from dataclasses import dataclass

import tyro

from ground.errors import UserError, unknown_name

TRAINING_LEVELS, ALL_LEVELS = 1_000_000, 2_000_000
PLAYERS = ("teacher", "student", "controller", "scripted", "random")
CHOICES = {
    "method": ("ihac", "ppo", "dagger", "hiro", "halo", "sac", "td3"),
    "high_level": ("learned", "options", "controller"),
    "low_learner": ("sac", "td3", "ppo"),
    "high_learner": ("sac", "td3"),
    "prior": ("none", "controller", "reversed"),
    "exploration": ("steps", "extended"),
    "preset": ("tiny", "small", "paper"),
    "rule": ("auto", "random", "entropy", "bisection"),
    "policies": ("auto", "tabular", "neural"),
    "trust": ("auto", "law", "learnt"),
    "teacher": ("local", "llm", "scripted", "replay", "random", "uniform-legal", "shuffled", "none"),
    "student": ("hierarchical", "flat"),
    "limit": ("lava", "colours"),
    "scoring": ("auto", "logprobs", "choice", "echo", "samples"),
    "prompt": ("compact", "chat"),
    "on_teacher_failure": ("abort", "hold", "controller", "scripted"),
}


@dataclass(frozen=True)
class TrainConfig:
    """Teach an agent a task: a teacher labels scenes, a controller is distilled from the labels, PPO improves both."""

    method: str = "ihac"
    """ihac (teacher, controller, PPO), dagger (distil the controller and stop), ppo (no teacher), halo (demonstrations,
    and questions about the option behind a few of their steps); for actions that are vectors hiro (goals above, actions
    below), sac, td3 (flat)."""
    task: str = "SimpleDoorKey"
    """SimpleDoorKey, LavaDoorKey, ColoredDoorKey, TwoDoor, KeyInBox, RandomBoxKey, DynamicDoorKey; a stock level such
    as DoorKey-8x8, or any MiniGrid environment by its id; PointReach, PointUMaze, PointPush, PointFall, AntMaze and the
    other mazes; FetchPickAndPlace; RescueWorld-n2, -n3 or -n6, or with -random behind it; or any Gymnasium id with
    vectors for observations and actions, such as HalfCheetah-v5."""
    preset: str = "small"
    """tiny (a minute, to try things), small (the default), or paper; the settings of a method on a task."""
    savedir: str = "run"
    """Name of the run, which goes to LOGDIR/METHOD/TASK/SAVEDIR."""
    logdir: str = "log"
    """Where runs live."""
    resume: bool = False
    """Continue the run of that name, to the bit; --steps may have grown."""
    steps: int | None = None
    """Environment steps in all, demonstrations included; the preset's if not given."""
    seed: int = 0
    """Training seed: networks, actions, training levels, label noise."""
    seeds: tuple[int, ...] = ()
    """Several training seeds, one after another, into SAVEDIR/seed-0 and so on."""
    teacher: str = "local"
    """local (a tiny model in this process), llm (a server), scripted, replay, none, or a control: random,
    uniform-legal, shuffled (another scene's answer; shuffled:NAME for another teacher's than local)."""
    base_url: str | None = None
    """Server of --teacher llm, OpenAI protocol; OPENAI_BASE_URL if not given. The key is read from OPENAI_API_KEY."""
    model: str | None = None
    """Model on that server, or for --teacher local a folder; the only one that the server offers if not given."""
    labels: str | None = None
    """Label store (SQLite) to read answers from and add answers to; the run's own if not given."""
    permutations: int = 4
    """Menu orders that the teacher's answer is averaged over."""
    margin: float = 0.0
    """Labels whose two best options are closer than this are abstentions."""
    prompt: str | None = None
    """Prompt template: compact (for small models trained on the task) or chat; the model's own if it tells."""
    scoring: str = "auto"
    """How a server is asked: logprobs, choice, echo, samples; auto takes the first of these that it honours."""
    samples: int = 10
    """Samples per menu where the server cannot score (choice, samples)."""
    concurrency: int | None = None
    """Requests in flight at once; by the speed of the server if not given."""
    max_llm_calls: int | None = None
    """Stop hard at this many calls; repetitions and probes count."""
    max_llm_tokens: int | None = None
    """Stop hard at this many tokens, of prompts and replies."""
    max_llm_seconds: float | None = None
    """Stop hard after this many seconds of asking."""
    on_teacher_failure: str = "abort"
    """When the server stays away: abort (everything is kept, --resume goes on), or stand in for it: hold (the running
    option goes on), controller (the one being distilled decides), scripted (the task's expert decides)."""
    soft: bool = True
    """Learn from the teacher's probabilities (--soft_planner); --no-soft or --hard: from its best option alone."""
    label_noise: float = 0.0
    """Probability with which a query's label is replaced by a random legal option."""
    limit: str | None = None
    """Cripple teacher and skills: lava (they do not see it) or colours (key options swapped on 30% of levels)."""
    student: str = "hierarchical"
    """hierarchical (options, then actions) or flat (actions alone, as IHAC has it)."""
    mask: bool = True
    """Let the student choose legal options only."""
    controller: str | None = None
    """Run, or folder, of a distilled controller to start from; a new one is distilled if not given."""
    high_level: str = "learned"
    """Of hiro: learned (goals in space), options (learned, too, but among the task's named options; the only way where
    actions are named), or controller (the distilled controller is the high level, the low level alone learns)."""
    goal_space: str | None = None
    """Of hiro over goals: the space in which they are set, by name: of ants hiro_xy or hiro_orig (the paper's 15
    dimensions), of points xy, where there is a chasm xyz; the places that options lead to if not given."""
    high_learner: str | None = None
    """Of hiro over goals: sac or td3; the preset's if not given."""
    low_learner: str | None = None
    """Of hiro over goals: sac, td3 or ppo; the preset's if not given. Over options it is ppo."""
    prior: str = "none"
    """Of hiro: none, controller (its goals are offered at first, and have faded long before the end), or reversed (the
    opposite of its goals, as a control)."""
    value_filter: bool = False
    """Of hiro's prior: follow the controller's goal, and pull towards it, only where the critics value it more than the
    actor's own."""
    planned_candidate: bool = False
    """Of hiro with a controller: its goal is one more candidate when the goals of old segments are corrected."""
    oracle: str = "truth"
    """Of halo, who answers: truth (with --label-noise it errs), controller (of --controller, else the task's newest,
    else one is distilled first), teacher (of --teacher), person (the questions wait in the run's ledger), or several of
    these with commas, which is a cascade: whoever tells most for his price."""
    budget: str = "4%"
    """Of halo, questions: a number, or a share of the demonstrations' steps."""
    rule: str = "auto"
    """Of halo, where to ask: auto, random, entropy, bisection."""
    demos: str = "100"
    """Of halo, demonstrations: so many are recorded of the task's expert, and a quarter more that nobody is asked
    about; or a Minari dataset by its id, the last fifth of which is left for that."""
    policies: str = "auto"
    """Of halo: tabular, neural, or auto (tabular where the task's states can be counted)."""
    trust: str = "auto"
    """Of halo: learnt (how often an annotator takes which option for which is learnt with all else), law (what was said
    is right), or auto: law for the truth and for a person, learnt for whoever may err."""
    ahead: int = 0
    """Of halo: rounds of questions that are chosen before the answers of those before them are in, so that whoever
    answers need not wait while it learns; `label` uses 1."""
    stop_error: float | None = None
    """Of halo: stop asking when no more than this share of the steps is expected to be wrong."""
    low_level: str | None = None
    """Of hiro: a run whose low level is taken over and learns no more, of any task that is seen and acted in alike; its
    steps count."""
    relabel: bool = True
    """Of hiro: correct the goals of old segments."""
    exploration: str = "steps"
    """Of sac and td3: steps (noise of its own at each step), or extended (besides, now and then an action is held for a
    while: epsilon-z-greedy)."""
    memory: int | None = None
    """Of sac, td3 and hiro: environment steps that are remembered; the preset's if not given."""
    num_envs: int | None = None
    """Worlds side by side; the preset's if not given."""
    threads: int = 1
    """Threads of torch."""
    device: str = "auto"
    """Where networks are: cpu, cuda, cuda:1 and so on, or auto: the GPU where there is one. hiro's small networks are
    faster on the processor, and there alone a run repeats to the bit."""
    eval_episodes: int = 100
    """Held-out levels on which the finished student is judged; 0 for none."""
    eval_every: int | None = None
    """Judge it so on the way as well, each time that so many environment steps have passed: a learning curve."""
    quiet: bool = False
    """No progress display."""
    json: bool = False
    """Print one line of JSON on stdout and everything else on stderr."""
    debug: bool = False
    """Show tracebacks."""

    @property
    def plans(self) -> bool:
        """Whether a controller sets goals, or offers them."""
        return self.method == "hiro" and (self.high_level == "controller" or self.prior != "none")

    @property
    def oracles(self) -> tuple[str, ...]:
        """Who answers halo's questions, by name."""
        return tuple(name.strip() for name in self.oracle.split(",") if name.strip())

    @property
    def needs_controller(self) -> bool:
        """Whether there must be a distilled controller before the run begins."""
        return self.plans or (self.method == "halo" and "controller" in self.oracles)


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
    """Players, with commas: teacher, student, controller, scripted, random. The student alone if not given."""
    eval_teacher: bool = False
    """Judge the teacher instead (IHAC also says --eval_meta_controller)."""
    seeds: str = "1000000:1000500"
    """Levels A:B, B not included; those below 1000000 are for training and refused."""
    video: int = 0
    """Write a video of this many episodes of the student (else of the first player), with the option or the subgoal as
    its caption, and of mazes a map of these episodes and their subgoals beside it."""
    batch: int = 256
    """Worlds side by side."""
    teacher: str | None = None
    """As in train; the run's own teacher if not given."""
    base_url: str | None = None
    """As in train; the run's own if not given."""
    model: str | None = None
    """As in train; the run's own if not given."""
    labels: str | None = None
    """As in train; the run's own if not given."""
    permutations: int | None = None
    """As in train; the run's own if not given."""
    margin: float | None = None
    """As in train; the run's own if not given."""
    prompt: str | None = None
    """As in train; the run's own if not given."""
    scoring: str | None = None
    """As in train; the run's own if not given."""
    samples: int | None = None
    """As in train; the run's own if not given."""
    concurrency: int | None = None
    """As in train."""
    max_llm_calls: int | None = None
    """As in train."""
    max_llm_tokens: int | None = None
    """As in train."""
    max_llm_seconds: float | None = None
    """As in train."""
    soft: bool = True
    """As in train."""
    label_noise: float | None = None
    """As in train; the run's own if not given."""
    limit: str | None = None
    """As in train; the run's own limit if not given."""
    threads: int = 1
    """Threads of torch."""
    device: str = "auto"
    """As in train."""
    quiet: bool = False
    """No progress display."""
    json: bool = False
    """Print one line of JSON on stdout and everything else on stderr."""
    debug: bool = False
    """Show tracebacks."""

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
            raise UserError(f"--compare {named!r} names nobody.", f"--compare {','.join(PLAYERS)}")
        for player in players:
            if player not in PLAYERS:
                raise unknown_name("player", player, PLAYERS, f"--compare {','.join(PLAYERS)}")
        return players + (("teacher",) if self.eval_teacher and "teacher" not in players else ())


def _levels(text: str) -> range:
    first, colon, end = text.partition(":")
    try:
        levels = range(int(first), int(end) if colon else int(first) + 1)
    except ValueError as error:
        raise UserError(f"--seeds {text} is not of the form A:B.", "--seeds 1000000:1000500") from error
    if not levels:
        raise UserError(f"--seeds {text} holds no level.", "--seeds 1000000:1000500")
    if levels.start < TRAINING_LEVELS or levels.stop > ALL_LEVELS:
        raise UserError(
            f"--seeds {text} is not held out: levels below {TRAINING_LEVELS} are for training, and {ALL_LEVELS} is "
            "the end.",
            "--seeds 1000000:1000500",
        )
    return levels


@dataclass(frozen=True)
class DemosConfig:
    """Record demonstrations of a task's expert as a Minari dataset, which `train --method halo --demos ID` reads."""

    task: str = "RescueWorld-n3"
    """Task that is demonstrated."""
    to: str = ""
    """Id of the new dataset, such as preceptor/rescueworld-n3/expert-v0."""
    count: int = 100
    """Demonstrations, one per training level."""
    seed: int = 0
    """Draws levels, ways and mistakes."""
    epsilon: float = 0.1
    """Share of actions that are random; where actions are vectors, deviation of the noise on them."""
    json: bool = False
    """Print one line of JSON on stdout and everything else on stderr."""
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
    plot: str | None = None
    """PNG file for the curves; LOGDIR/report.png if not given."""
    json: bool = False
    """Print one line of JSON on stdout instead of the table."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class DoctorConfig:
    """Check the installation, the built-in language model, rendering, the disk, and on request a run."""

    run: str | None = None
    """Name or path of a run to verify: settings, manifest, metrics, and that its checkpoints load."""
    logdir: str = "log"
    """Where runs live."""
    json: bool = False
    """Print one line of JSON on stdout instead of the table."""
    debug: bool = False
    """Show tracebacks."""

"""Settings of HALO. The text under each field is its help on the command line; nothing heavy is imported here."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Gt, Lt

from preceptor.ground.errors import unknown_name
from preceptor.ground.ranges import Count, CountOrNone, NotNegative, Positive, Share

RuleName = Literal["auto", "random", "entropy", "bisection"]
PolicyKind = Literal["auto", "tabular", "neural"]
AnnotatorModel = Literal["auto", "exact", "learned"]
# Of one question. A controller answers for nothing once it is distilled, but a cascade needs something to divide by.
PRICES = {"controller": 0.01, "teacher": 1.0, "truth": 10.0, "person": 10.0}


@dataclass(frozen=True)
class EMConfig:
    """One fit by expectation maximisation."""

    steps: Count = 20
    """Rounds of E- and M-step."""
    anneal: Share = 0.9
    """Share of the rounds over which the weight of unlabelled steps in the low level's loss rises from 0 to 1 in the
    first restart; evenly less in the others, and none in the last (EM-lambda: Nigam et al., 2000, section 5.3)."""
    confusion_weight: Positive = 10.0
    """Answers that the first estimate of an annotator's confusion matrix counts for, per option."""


@dataclass(frozen=True)
class TabularConfig:
    """Dirichlet priors of tables over states, in units of steps seen."""

    stay: Share = 0.95
    """Mean probability that an option goes on, before any step was seen."""
    stay_weight: Positive = 1.0
    """Steps that this prior counts for, in each state and option."""
    smoothing: Positive = 0.5
    """Steps that each action counts for, in each state and option."""
    initial_smoothing: Positive = 1.0
    """Demonstrations that each first option counts for."""


@dataclass(frozen=True)
class NeuralConfig:
    """Networks over features, and their M-steps."""

    hidden: Count = 32
    """Width of both hidden layers."""
    lr: Positive = 1e-2
    """Learning rate of Adam."""
    batch: Count = 1024
    """Demonstrated steps per gradient step."""
    epochs: Count = 2
    """Passes over all steps per M-step: a generalised M-step, since networks have no closed one."""
    decay: NotNegative = 1e-2
    """Precision of the Gaussian prior on the weights, in nats per squared unit."""
    stay: Share = 0.95
    """Probability that an option goes on, before training."""


@dataclass(frozen=True)
class HaloConfig:
    """Options from demonstrations, by questions about the option behind a few of their steps."""

    oracle: str = "truth"
    """Who answers: truth (with --label-noise it errs), controller (of --controller, else the task's newest, else one is
    distilled first), teacher (of --teacher), person (the questions wait in the run's ledger), or several of these with
    commas: a cascade, which asks the one that tells most for its price."""
    budget: str = "4%"
    """Questions: a number, or a share of the demonstrations' steps."""
    rule: RuleName = "auto"
    """Where to ask: auto (anchors first, then where several fits are unsure), random, entropy (where the likeliest fit
    is unsure), or bisection (between labels that differ)."""
    demos: str = "100"
    """Demonstrations: so many are recorded of the task's expert, and a quarter more that are held out from questions;
    with `mixed:` before the number, some of its action groups are faulty at times; or a dataset, the last fifth of
    which is held out: of Minari by its id, of LeRobot by its folder. Several with a plus sign: mixed:200+4."""
    policies: PolicyKind = "auto"
    """tabular, neural, or auto (tabular where the task's states can be counted)."""
    annotator_model: AnnotatorModel = "auto"
    """What is believed of an answer: exact (it is right), learned (the confusion matrix of each annotator is learned
    with all else), or auto: exact for the truth and for a person, learned for an annotator that may err."""
    ahead: CountOrNone = 0
    """Rounds of questions that are chosen before the rounds before them are answered, so that the annotator need not
    wait while HALO learns; `label` uses 1."""
    stop_error: Annotated[float, Gt(0), Lt(1)] | None = None
    """Stop asking when no more than this share of the steps is expected to be wrong."""
    restarts: Count = 5
    """Fits from different starts, of which the likeliest is kept and all are the committee that chooses questions."""
    batch: Count = 16
    """Questions per round, no more than one per demonstration."""
    em: EMConfig = field(default_factory=EMConfig)
    """Expectation maximisation."""
    tabular: TabularConfig = field(default_factory=TabularConfig)
    """Tables, where states can be counted."""
    neural: NeuralConfig = field(default_factory=NeuralConfig)
    """Networks, where they cannot."""

    @property
    def asks_teacher(self) -> bool:
        """Whether the teacher is among those who answer."""
        return "teacher" in self.oracles

    @property
    def needs_controller(self) -> bool:
        """Whether there must be a distilled controller before the run begins."""
        return "controller" in self.oracles

    @property
    def oracles(self) -> tuple[str, ...]:
        """Who answers, by name. Raises `UserError` for a name that is none of `PRICES`."""
        names = tuple(name.strip() for name in self.oracle.split(","))
        for name in names:
            if name not in PRICES:
                raise unknown_name("oracle", name, PRICES, "--oracle truth")
        return names


# A first look, the default, and more restarts and rounds than the default was seen to need.
PRESETS = {
    "tiny": HaloConfig(restarts=3, batch=64, em=EMConfig(steps=10)),
    "small": HaloConfig(),
    "paper": HaloConfig(restarts=10, batch=4),
}

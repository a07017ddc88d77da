"""What HALO is for: a few per cent of labels tell the rest, also where the annotator errs."""

from pathlib import Path

import numpy as np
import pytest

from agent.data.recording import Recording
from agent.demonstrating import record
from agent.halo.acquisition import questions
from agent.halo.config import HaloConfig
from agent.halo.em import Fit
from agent.halo.ledger import Ledger
from agent.halo.method import Halo, wrong_share
from agent.halo.oracles import Belief, Truth, at_first
from envs.catalog import get_task

TASK = get_task("RescueWorld-n3")


def asked(
    recording: Recording, budget: str, path: Path, *, rule: str = "auto", noise: float = 0.0, learned: bool
) -> float:
    """Option error of the unlabelled steps after so many questions."""
    oracle = Truth(recording, len(TASK.options), noise, 0)
    confusion = at_first(oracle, len(TASK.options)) if learned else None
    halo = Halo(TASK, recording, HaloConfig(rule=rule), 0, confusion)
    ledger = Ledger(path, TASK, recording)
    left, found = questions(budget, int(recording.acted.sum())), halo.learn(ledger.evidence(("truth",), 0), 0)
    while left:
        chosen = halo.questions(halo.context(found, ledger), left, len(ledger.rounds))
        ledger.ask(chosen)
        nothing = Belief(np.zeros((len(chosen), 3)), np.zeros((1, 3, 3)))
        for answer in oracle.ask(chosen, nothing):
            ledger.answer(answer)
        left -= len(chosen)
        found = halo.learn(ledger.evidence(("truth",), len(ledger.rounds)), len(ledger.rounds))
    return error(found, recording, ledger)


def error(found: Fit, recording: Recording, ledger: Ledger) -> float:
    return wrong_share(found.gamma, recording, recording.acted & (ledger.times_asked() == 0))


@pytest.mark.parametrize("rule", ["auto", "random"])
def test_four_per_cent_of_labels_tell_the_rest(rule: str, tmp_path: Path) -> None:
    recording = record(TASK, 100, 11)
    assert asked(recording, "4%", tmp_path / "ledger", rule=rule, learned=False) < 0.05
    assert asked(recording, "4%", tmp_path / "lies", rule=rule, noise=1.0, learned=False) > 0.5, "it is they that tell"


def test_learned_confusion_beats_exact_labels_where_one_label_in_five_is_wrong(tmp_path: Path) -> None:
    errors = np.zeros((3, 2))
    for seed in range(3):
        recording = record(TASK, 100, 20 + seed)
        for learned in (False, True):
            name = tmp_path / f"{seed}-{learned}"
            errors[seed, int(learned)] = asked(recording, "4%", name, rule="random", noise=0.2, learned=learned)
    exact, confusion = errors.mean(0)
    assert confusion < 0.75 * exact

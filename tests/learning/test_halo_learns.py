"""What HALO is for: a few per cent of labels tell the rest."""

from pathlib import Path

import pytest

from preceptor.agent.demonstrating import record
from preceptor.agent.halo.acquisition import questions
from preceptor.agent.halo.config import HaloConfig
from preceptor.agent.halo.ledger import Ledger
from preceptor.agent.halo.method import Halo, wrong_share
from preceptor.agent.halo.oracles import Truth
from preceptor.envs.catalog import get_task


@pytest.mark.parametrize("rule", ["auto", "random"])
def test_four_per_cent_of_labels_tell_the_rest(rule: str, tmp_path: Path) -> None:
    task = get_task("RescueWorld-n3")
    recording = record(task, 100, 11)
    halo = Halo(task, recording, HaloConfig(rule=rule), 0)

    def option_error(noise: float) -> float:
        """Of the unlabelled steps, once the budget is spent."""
        oracle, ledger = Truth(recording, 3, noise, 0), Ledger(tmp_path / str(noise), task, recording)
        left, rounds = questions("4%", int(recording.acted.sum())), 0
        while True:
            found = halo.learn(ledger.evidence(("truth",), rounds), rounds)
            if not left:
                return wrong_share(found.gamma, recording, recording.acted & (ledger.times_asked() == 0))
            ledger.ask(chosen := halo.choose(found, ledger, left, rounds))
            for answer in oracle.ask(chosen):
                ledger.answer(answer)
            left, rounds = left - len(chosen), rounds + 1

    assert option_error(0.0) < 0.05
    assert option_error(1.0) > 0.5, "it is they that tell"

"""Runs as one program: who takes rounds with whom, and what becomes of the others where one fails."""

import contextlib
from types import SimpleNamespace

import pytest

from preceptor.agent import together
from preceptor.agent.config import configure
from preceptor.agent.train import by_seed, train
from preceptor.ground.errors import UserError

TOTAL = 5
SETTINGS = {"method": "ppo", "seeds": "0 1 2", "on_gpu": True, "quiet": True}


class FakeRun:
    """Stands at a step, and fails where it is told to."""

    def __init__(self, seed, steps, events, fails_at=None):
        self.steps, self.complete, self.fails_at, self.events = steps, steps == TOTAL, fails_at, events
        self.config = SimpleNamespace(seed=seed)
        self.run = SimpleNamespace(results=lambda: {"seed": seed, "old": True}, beginning=self.beginning)
        self.log = SimpleNamespace(shown=contextlib.nullcontext, warn=lambda text: events.append(("warned", text)))
        self.method = self

    @contextlib.contextmanager
    def beginning(self):
        try:
            yield
        except Exception:
            self.events.append(("gave its name back", self.config.seed))
            raise

    def join(self, others):
        self.events.append(("joined", self.config.seed, *(other.config.seed for other in others)))

    @property
    def going(self):
        return self.steps < TOTAL

    def advance(self):
        if self.steps + 1 == self.fails_at:
            raise UserError("It diverged.", "another --seed")
        self.steps += 1

    def conclude(self):
        self.events.append(("judged", self.config.seed, self.steps))
        return {"seed": self.config.seed}


def trained(monkeypatch, *runs):
    """What became of fake runs, for each the keywords that make it."""
    events = []
    fakes = {seed: FakeRun(seed, events=events, **run) for seed, run in enumerate(runs) if run}

    @contextlib.contextmanager
    def opened(config):
        if config.seed not in fakes:
            raise UserError("It already holds a run.")
        yield fakes[config.seed]

    monkeypatch.setattr(together, "opened", opened)
    configs = by_seed(configure(SETTINGS))
    try:
        return events, together.train_together(configs)
    except UserError as error:
        return events, error


def test_runs_that_are_behind_catch_up_and_join_the_others(monkeypatch):
    events, results = trained(monkeypatch, {"steps": 3}, {"steps": 0}, {"steps": 3})
    assert events[:2] == [("joined", 1), ("joined", 0, 1, 2)]
    assert sorted(events[2:]) == [("judged", seed, TOTAL) for seed in range(3)]
    assert results == [{"seed": seed} for seed in range(3)]


def test_a_run_that_is_complete_is_left_as_it_is(monkeypatch):
    events, results = trained(monkeypatch, {"steps": TOTAL}, {"steps": 0}, {"steps": 0})
    assert ("joined", 1, 2) in events
    assert results[0] == {"seed": 0, "old": True}


def test_where_one_fails_the_others_come_to_their_end(monkeypatch):
    events, error = trained(monkeypatch, {"steps": 0}, {"steps": 0, "fails_at": 2}, {"steps": 0})
    assert isinstance(error, UserError)
    assert (error.what, error.next_step) == ("Seed 1: It diverged.", "another --seed")
    assert [event for event in events if event[0] == "judged"] == [("judged", 0, TOTAL), ("judged", 2, TOTAL)]
    assert ("warned", "seed 1: It diverged.") in events


def test_where_one_cannot_be_opened_none_is_begun(monkeypatch):
    events, error = trained(monkeypatch, {"steps": 0}, {"steps": 0}, None)
    assert isinstance(error, UserError)
    assert sorted(events) == [("gave its name back", 0), ("gave its name back", 1)]


def test_a_listener_would_not_know_whom_it_hears(tmp_path):
    with pytest.raises(UserError, match="listener"):
        train(configure(SETTINGS | {"logdir": str(tmp_path)}), on_update=lambda step, metrics: None)

"""A run whose server failed in the middle equals, to the bit, the replay of the label store that it left behind."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from preceptor.agent.config import TrainConfig, changed, configure
from preceptor.agent.evaluate import evaluate
from preceptor.agent.flags import EvalConfig
from preceptor.agent.runs.metrics import Metrics
from preceptor.agent.runs.run import Run
from preceptor.agent.train import train
from preceptor.teacher import make
from preceptor.teacher.base import TeacherError
from preceptor.teacher.config import Limits
from preceptor.teacher.labels import LabelStore
from tests.faulty_server import Script, Step, faulty

# Two samples for each of two menu orders: many requests, and labels that differ with every reply.
TINY = {
    "task": "KeyInBox", "method": "dagger", "preset": "tiny", "steps": 960, "teacher": "llm", "prompt": "compact",
    "scoring": "samples", "samples": 2, "permutations": 2, "quiet": True, "eval_episodes": 2, "seed": 2,
    "concurrency": 3,
}  # fmt: skip
# What a clock measured, what asking cost, and where things lie: not the run itself.
NOT_THE_RUN = {"seconds", "run", "teacher", "queries", "calls", "hits", "invalid", "asking"}
# A server that, after the probe, says things that are no answers, and fails longer than the deadline, twice.
TROUBLE = (
    Step("no_choices", times=4, after=20),
    Step("off_menu", times=4, after=1),
    Step("worker_killed", times=6, after=2),
    Step("internal_error", times=6, after=4),
    Step("cut", times=2),
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that the troubles outlast, and a cool-down that ends within the run."""
    short = {"abort": Limits(deadline_seconds=0.5), "otherwise": Limits(deadline_seconds=0.3, cool_down_seconds=0.1)}
    monkeypatch.setattr(make, "LIMITS", short)


def outcome(result: dict[str, Any]) -> tuple[dict[str, Any], bytes, list[Any]]:
    """What a run came to: its result, every tensor of its last checkpoint, and every episode that was judged."""
    run = Path(result["run"])
    numbers = {name: value for name, value in result.items() if name not in NOT_THE_RUN}
    numbers["fallbacks"] = result["asking"].get("fallbacks", 0)
    episodes = [json.loads(path.read_text()) for path in sorted(run.glob("episodes/*.json"))]
    last = Run.open(run).last_step
    return numbers, (run / "checkpoints" / str(last) / "state.safetensors").read_bytes(), episodes


def replay(result: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """The same run from nothing but its store; the policy goes along, and has nothing to do."""
    store = str(Path(result["run"]) / "labels.sqlite")
    words = {"teacher": "replay", "labels": store, "savedir": "replay", "base_url": None, "resume": False}
    return train(changed(config, words))


def statuses(result: dict[str, Any]) -> set[str]:
    with LabelStore(Path(result["run"]) / "labels.sqlite", read_only=True) as store:
        return {call.status for call in store.calls(answers_only=False)}


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Steps after which the run is killed, between two checkpoints: what is not in the store is lost."""
    written, ahead = Metrics.scalars, [100.0, 300.0, 400.0]

    def interrupt(self: Metrics, step: int, values: Any) -> None:
        written(self, step, values)
        if ahead and step > ahead[0]:
            ahead.pop(0)
            raise KeyboardInterrupt

    monkeypatch.setattr(Metrics, "scalars", interrupt)
    return ahead


@pytest.mark.parametrize(
    ("policy", "changes"),
    [
        ("scripted", {"label_noise": 0.2}),
        ("hold", {"method": "ihac", "student": "flat", "steps": 1200}),
        ("controller", {"method": "ihac", "teacher_flaw": "colours", "task": "ColoredDoorKey", "steps": 1200}),
    ],
)
def test_a_run_that_went_on_without_its_server_and_was_killed_equals_its_replay(
    tmp_path: Path, policy: str, changes: dict[str, Any], kills: list[float]
) -> None:
    with faulty(Script(steps=TROUBLE, off_menu=0.2)) as server:
        config = configure(
            TINY, logdir=str(tmp_path), resume=True, on_teacher_failure=policy, base_url=server.url, **changes
        )
        while kills:
            with pytest.raises(KeyboardInterrupt):
                train(config)
        result = train(config)
    assert statuses(result) >= {"ok", "off_menu", "empty", "error", "fallback"}
    assert outcome(replay(result, config)) == outcome(result)


def test_judging_the_teacher_of_a_run_changes_nothing_that_the_run_was_taught(tmp_path: Path) -> None:
    with faulty(Script(steps=(*TROUBLE, Step("internal_error", forever=True, after=10)), off_menu=0.2)) as server:
        config = configure(TINY, logdir=str(tmp_path), on_teacher_failure="scripted", base_url=server.url)
        result = train(config)
        assert result["asking"]["fallbacks"] > 0
        server.play(Script())  # by now it would answer everything, and otherwise
        judged = EvalConfig(task=TINY["task"], loaddir="run", logdir=str(tmp_path), compare="teacher", quiet=True)
        evaluate(replace(judged, seeds="1000000:1000040"))
    assert outcome(replay(result, config)) == outcome(result)


def test_a_run_that_stopped_for_its_server_goes_on_and_equals_its_replay(tmp_path: Path) -> None:
    with faulty(Script(steps=TROUBLE, off_menu=0.2)) as server:
        config = configure(TINY, logdir=str(tmp_path), resume=True, base_url=server.url)
        advice: set[str] = set()
        for _ in range(40):
            try:
                result = train(config)
                break
            except TeacherError as error:
                advice.add(error.next_step.partition(" ")[0])
    assert advice == {"curl"}
    assert statuses(result) >= {"ok", "off_menu", "empty", "error"}
    assert outcome(replay(result, config)) == outcome(result)

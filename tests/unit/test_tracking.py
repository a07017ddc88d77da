"""Run directories and metrics: what is where, what is refused, and what a resumed run leaves behind."""

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from preceptor.agent.config import configure, to_plain
from preceptor.agent.runs.metrics import Metrics, read_metrics
from preceptor.agent.runs.run import Run
from preceptor.agent.train import train
from preceptor.ground.atomic import CheckpointError, alone, read_sealed, write_json
from preceptor.ground.errors import UserError

NESTED = {
    "method": "ihac", "task": "SimpleDoorKey", "seed": 1, "steps": 100, "seeds": (), "resume": False,
    "teacher": {"teacher": "local", "concurrency": 1}, "settings": {"low": {"lr": 0.001}, "budget": "4%"},
}  # fmt: skip


def start(logdir, name="demo", method="ihac", **changes):
    settings = {**NESTED, **changes}
    return Run.create(logdir, method, "SimpleDoorKey", name, settings, resume=settings["resume"])


def play(run, until):
    """A stand-in for training: its state is one number, its metric that number."""
    at = run.last_step
    step, total = (0, 0.0) if at is None else (at, run.load()[1]["total"])
    with run.metrics(quiet=True) as log:
        while step < until:
            step += 5
            total += step
            log.scalars(step, {"rollout/return": total})
            if step % 10 == 0:
                run.save(step, {"total": total, "weights": torch.full((3,), total)})
    return run


def test_a_run_directory_has_its_parts(tmp_path):
    run = play(start(tmp_path), 40)
    assert run.path == tmp_path / "ihac" / "SimpleDoorKey" / "demo"
    assert (run.path / "last").read_text() == "checkpoints/40\n"
    assert (run.saved_steps(), run.load()[0], run.teacher) == ([30, 40], 40, "local")
    assert json.loads((run.path / "config.json").read_text())["config"]["seed"] == 1
    manifest = run.manifest()
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["starts"][0]["argv"] == sys.argv
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", manifest["starts"][0]["commit"])


def test_the_manifest_holds_no_secret(tmp_path, monkeypatch):
    url = "https://me:hunter2@host/v1"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setattr(sys, "argv", ["main.py", "--base-url", url])
    run = start(tmp_path, base_url=url)
    run.annotate(teacher={"url": url, "logprobs": True})
    assert run.manifest()["teacher"] == {"url": "https://***@host/v1", "logprobs": True}
    written = "".join(path.read_text() for path in run.path.glob("*.json"))
    assert not [secret for secret in ("hunter2", "sk-secret") if secret in written]


def test_a_directory_in_use_is_neither_overwritten_nor_taken_for_a_run(tmp_path):
    folder = tmp_path / "ihac" / "SimpleDoorKey" / "demo"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="already holds") as caught:
        start(tmp_path)
    assert "--resume" in caught.value.next_step
    assert "--savedir" in caught.value.next_step
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        start(tmp_path, resume=True)


def test_an_interrupted_run_resumes_to_what_an_uninterrupted_one_leaves(tmp_path):
    whole, parts = play(start(tmp_path, "whole"), 60), play(start(tmp_path, "parts"), 35)
    with (parts.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "rollout/ret')  # killed in the middle of a line
    time.sleep(1.1)  # TensorBoard orders event files by the second in their names
    play(parts := start(tmp_path, "parts", resume=True, steps=200), 60)
    assert (parts.path / "metrics.jsonl").read_text() == (whole.path / "metrics.jsonl").read_text()
    assert parts.load()[1]["total"] == whole.load()[1]["total"]
    assert [entry["from_step"] for entry in parts.manifest()["starts"]] == [0, 30]
    events = EventAccumulator(str(parts.path)).Reload().Scalars("rollout/return")
    assert [event.step for event in events] == list(range(5, 65, 5))


def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path):
    play(start(tmp_path), 5)
    run = start(tmp_path, resume=True)
    assert run.last_step is None
    assert read_metrics(run.path / "metrics.jsonl") == []
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        run.load()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 2}, "seed was 1, now 2"),
        ({"steps": 50}, "steps was 100, and may grow but not shrink to 50"),
        ({"settings": {"low": {"lr": 0.002}}}, r"settings\.low\.lr was 0\.001, now 0\.002"),
        ({"settings": {"low": None}}, r"settings\.low was \{'lr': 0\.001\}, now None"),
        ({"teacher": {"teacher": "llm"}}, r"teacher\.teacher was 'local', now 'llm'"),
    ],
)
def test_resuming_with_other_settings_is_refused(tmp_path, change, words):
    start(tmp_path)
    with pytest.raises(UserError, match=words):
        start(tmp_path, resume=True, **change)


def test_resuming_may_change_what_does_not_change_the_learning(tmp_path):
    start(tmp_path)
    longer = {"low": {"lr": 0.001}, "budget": "8%", "new": "since then"}
    run = start(tmp_path, resume=True, device="cuda", teacher={"teacher": "local", "concurrency": 9}, settings=longer)
    assert Run.open(run.path).config["settings"] == longer


def test_a_run_of_an_older_version_names_the_commit_that_reads_it(tmp_path):
    run = start(tmp_path)
    saved = json.loads((run.path / "config.json").read_text())
    assert saved["schema"] == 3
    write_json(run.path / "config.json", saved | {"schema": 1})
    with pytest.raises(CheckpointError, match=r"older version.*schema 1; this one reads 2") as caught:
        start(tmp_path, resume=True)
    assert caught.value.next_step.startswith("git checkout ec3ec8d ")
    assert Run.all(tmp_path)[0].config["damaged"] == "(not of this version)"


def test_a_last_checkpoint_that_cannot_be_read_is_never_advised_away(tmp_path):
    run = play(start(tmp_path), 20)
    state = run.checkpoint(20) / "state.json"
    state.write_text(state.read_text().replace('{"format"', "{"))
    with pytest.raises(CheckpointError, match="truncated") as caught:
        run.load()
    assert caught.value.next_step.startswith("mv ")
    assert "--resume continues from step 10" in caught.value.next_step


@pytest.mark.parametrize(
    ("saved_by", "words", "advice"),
    [
        (None, "is of ihac on SimpleDoorKey.*size mismatch", "--task SimpleDoorKey --method ihac"),
        ("abc123+changes", "is of ihac on SimpleDoorKey.*size mismatch", "--task SimpleDoorKey --method ihac"),
    ],
)
def test_a_checkpoint_of_another_network_is_a_named_error(tmp_path, saved_by, words, advice):
    """Where shapes differ, the reason is that, whichever commit saved it."""
    run = start(tmp_path)
    run.save(10, torch.nn.Linear(3, 2).state_dict())
    if saved_by:
        run.annotate(starts=[{**run.manifest()["starts"][0], "commit": saved_by}])
    run = start(tmp_path, resume=True)
    assert run.restore(torch.nn.Linear(3, 2).load_state_dict) == 10
    with pytest.raises(CheckpointError, match=words) as caught:
        run.restore(torch.nn.Linear(4, 2).load_state_dict)
    assert caught.value.next_step.startswith(advice)


def test_a_checkpoint_of_another_version_names_the_commit_that_saved_it(tmp_path):
    run = start(tmp_path)
    run.save(10, {})
    run.annotate(starts=[{**run.manifest()["starts"][0], "commit": "abc123+changes"}])
    with pytest.raises(CheckpointError, match=r"does not fit this version.*'low'.*abc123") as caught:
        run.restore(lambda tree: tree["low"])
    assert caught.value.next_step.startswith("git checkout abc123,")


def test_two_that_write_one_file_at_once_leave_what_one_of_them_wrote(tmp_path):
    """As two `eval` of one run do: `train` and `label` hold its lock."""
    path, killed = tmp_path / "eval.json", tmp_path / ".eval.json.1-2.draft"
    killed.touch()
    os.utime(killed, (0, 0))
    texts = [{"n": n, "text": "x" * 200_000} for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(partial(write_json, path), texts * 4))
    assert read_sealed(path, schema=0) in texts
    assert os.listdir(tmp_path) == ["eval.json"]


@pytest.mark.parametrize("pointer", ["", "checkpoints/7", "nonsense"])
def test_a_pointer_that_leads_nowhere_does_not_lose_the_run(tmp_path, pointer):
    run = play(start(tmp_path), 20)
    (run.path / "last").write_text(pointer)
    assert run.load()[0] == 20


def test_runs_are_found_by_name_path_and_task(tmp_path):
    demo, other = start(tmp_path), start(tmp_path, "other", method="ppo")
    for seed in (0, 1, 10):
        start(tmp_path, f"many/seed-{seed}", seed=seed)

    def find(name, task="SimpleDoorKey"):
        return Run.find(tmp_path, None, task, name)

    assert [find("demo").path, find(str(other.path)).path, find("other").path] == [demo.path, other.path, other.path]
    assert find("many/seed-1").name == "many/seed-1"
    for method, task, said in ((None, "LavaDoorKey", "--task SimpleDoorKey"), ("ppo", None, "--method ihac")):
        with pytest.raises(UserError, match=f"is a run of .*, not of {task or method}") as caught:
            Run.find(tmp_path, method, task, str(demo.path))
        assert caught.value.next_step.startswith(said)
    assert [run.config["seed"] for run in Run.find_all(tmp_path, None, "SimpleDoorKey", "many")] == [0, 1, 10]
    for words, said in {
        ("many",): "several seeds",
        ("dmeo",): r"Did you mean 'demo'\? Known: demo, many, other",
        ("demo", "TwoDoor"): "nor any other of TwoDoor",
    }.items():
        with pytest.raises(UserError, match=said):
            find(*words)


def test_the_newest_run_is_the_one_that_saved_last(tmp_path):
    assert Run.newest(tmp_path, None, "SimpleDoorKey") is None
    for age, name in ((100, "new"), (200, "old")):
        run = play(start(tmp_path, name), 10)
        os.utime(run.path / "last", (1e9 - age, 1e9 - age))
    start(tmp_path, "never-saved")
    assert Run.newest(tmp_path, None, "SimpleDoorKey").name == "new"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_stops_the_run(tmp_path, value):
    with Metrics(tmp_path, quiet=True) as log:
        with pytest.raises(UserError, match=rf"`low/policy_loss` became {value} at step 1,024"):
            log.scalars(1024, {"low/entropy": 1.0, "low/policy_loss": value})
        with pytest.raises(ValueError, match="starts with none of"):
            log.scalars(1024, {"loss": 1.0})
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_full_disk_costs_metrics_one_warning(tmp_path):
    """A limit on file sizes stands in for the full disk: writing fails below Python, and works again after that."""
    code = (
        "import resource, sys; from pathlib import Path; from preceptor.agent.runs.metrics import Metrics\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))\n"
        "with Metrics(Path(sys.argv[1]), quiet=True) as log:\n"
        "    for step in range(200): log.scalars(step, {'rollout/return': step})\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "    log.scalars(200, {'rollout/return': 200})\n"
        "assert log.incomplete\n"
    )
    told = {"cwd": Path(__file__).parents[2], "capture_output": True, "text": True, "check": False}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], **told)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: metrics are incomplete") == 1
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [*range(len(rows) - 1), 200]
    assert len(rows) > 20


def test_hyperparameters_stand_beside_results(tmp_path):
    with Metrics(tmp_path, quiet=True) as log:
        log.hparams({"settings": {"low": {"lr": 0.1}}, "controller": None, "seeds": (0, 1)}, {"eval/success": 0.9})
    written = b"".join(path.read_bytes() for path in tmp_path.glob("events.*"))
    assert b"_hparams_/session_start_info" in written
    assert b"settings.low.lr" in written


def test_plain_lines_where_there_is_no_terminal(tmp_path, capsys):
    with Metrics(tmp_path, total_steps=30_000) as log:
        log.say("teacher off")
        log.scalars(12_000, {"rollout/success": 0.5, "low/entropy": 1.0, "teacher/queries_per_1k_steps": 2.0})
        log.scalars(12_001, {"rollout/success": 0.25})  # too soon after the last line
        log.scalars(12_002, {"eval/success": 0.75})
    assert capsys.readouterr().err.splitlines() == [
        "teacher off",
        "step 12,000/30,000  rollout/success 0.5",
        "step 12,002/30,000  eval/success 0.75",
    ]


def test_one_process_at_a_time_writes_into_a_run(tmp_path):
    """Two `--resume` at once would mix the lines of their ledgers and metrics."""
    again = configure({"task": "SimpleDoorKey", "logdir": str(tmp_path), "savedir": "demo", "seed": 1, "resume": True})
    folder = Run.create(tmp_path, "ihac", "SimpleDoorKey", "demo", to_plain(again), resume=False).path
    before = sorted(folder.iterdir())
    with alone(folder), pytest.raises(UserError, match="is in use: another command") as caught:
        train(again)
    assert "--savedir" in caught.value.next_step
    assert sorted(path for path in folder.iterdir() if path.name != ".lock") == before
    with alone(folder):
        assert Run.open(folder).config["seed"] == 1


def test_a_quiet_run_may_be_shown_for_a_while(tmp_path, capsys):
    with Metrics(tmp_path, total_steps=10, quiet=True) as metrics:
        metrics.scalars(1, {"rollout/success": 0.25})
        with metrics.shown():
            metrics.scalars(2, {"rollout/success": 0.5})
        metrics.scalars(3, {"rollout/success": 0.75})
    assert capsys.readouterr().err.splitlines() == ["step 2/10  rollout/success 0.5"]

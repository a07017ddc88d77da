"""The command line: exit codes, suggestions, IHAC's spellings, and what goes to stdout."""

import subprocess
import sys
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import main as cli
from preceptor.agent.config import TrainConfig
from preceptor.ground.errors import UserError


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "Did you mean 'train'"),
        (["train", "--tsk", "KeyInBox"], "Did you mean '--task'"),
        (["train", "--max_llm_cals=3"], "Did you mean '--max-llm-calls'"),
        (["train", "--teacher", "scriptd"], "Did you mean 'scripted'"),
        (["train", "--limit", "larva"], "Did you mean 'lava'"),
        (["train", "--steps", "0"], "less than one step"),
        (["train", "--label-noise", "1.5"], "less than or equal to 1"),
        (["train", "--seeds", "1", "1"], "distinct"),
        (["train", "--savedir", ""], "not a name"),
        (["train", "--savedir", "../mine"], "not a name"),
        (["eval", "--compare", "teacher,studnet"], "Did you mean 'student'"),
        (["eval", "--seeds", "0:500"], "not held out"),
        (["eval", "--seeds", "1999999:2000001"], "not held out"),
        (["eval", "--seeds", "1000005:1000005"], "no level"),
        (["eval", "--seeds", "1000000:"], "A:B"),
        (["train", "--steps", "many"], "--steps is 'many'"),
        (["train", "--task"], "--task needs a value"),
        (["train", "KeyInBox"], "no place for 'KeyInBox'"),
        (["labels", "import", "x.jsonl"], "labels import needs --into"),
        (["eval", "--batch", "0"], "--batch is '0'"),
        (["serve", "--backend", "vlm"], "Did you mean 'vllm'"),
        (["serve", "--port", "70000"], "--port is '70000', and must be less than or equal to 65535"),
        (["serve", "--workers", "0", "--backend", "fastchat"], "--workers is '0', and must be greater"),
        (["serve", "--workers", "2", "--backend", "vllm"], "--workers is for fastchat"),
        (["serve", "--max-model-len", "99", "--backend", "fastchat"], "--max-model-len is for vllm and local"),
        (["serve", "--gpu-memory-utilization", "1.5", "--backend", "vllm"], "less than or equal to 1"),
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
    assert (cli.main([]), cli.main(["--help"])) == (2, 0)
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


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        # The spellings of IHAC.
        ("train --task TwoDoor --savedir x --logdir y", {"task": "TwoDoor", "savedir": "x", "logdir": "y"}),
        ("train --offline_planner --soft_planner", {"teacher.teacher": "scripted", "teacher.soft": True}),
        ("train --hard", {"teacher.soft": False}),
        ("eval --loaddir x --savedir z --eval_teacher", {"loaddir": "x", "savedir": "z", "players": ("teacher",)}),
        ("eval --eval_meta_controller", {"eval_teacher": True}),
        # Hyphens, underscores and equals signs are the same.
        *((f"train {flag}", {"teacher.max_llm_calls": 7}) for flag in ("--max-llm-calls 7", "--max_llm-calls=7")),
        ("train --no_mask --seeds 0 1 --savedir=a_b=c", {"settings.mask": False, "seeds": (0, 1), "savedir": "a_b=c"}),
        ("report a log/b --task TwoDoor", {"runs": ("a", "log/b")}),
        ("doctor --run log/b", {"run": "log/b"}),
        # Who plays, and where.
        ("eval --seeds 1000007", {"players": ("student",), "levels": range(1_000_007, 1_000_008)}),
        ("eval --compare student,teacher --eval_teacher", {"players": ("student", "teacher")}),
        ("eval --compare student --eval_teacher", {"players": ("student", "teacher")}),
    ],
)
def test_what_the_words_of_a_command_mean(words: str, expected: dict[str, Any]) -> None:
    config = cli.read(words.split()[0], words.split()[1:])
    assert {name: attrgetter(name)(config) for name in expected} == expected


def test_what_a_verb_returns_raises_or_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(config: TrainConfig) -> dict[str, Any]:
        if config.savedir == "tired":
            raise KeyboardInterrupt
        if config.savedir == "refused":
            raise UserError("The teacher is asleep.", "wake it")
        sys.stdout.write("progress\n")
        return {"task": config.task, "steps": 1000}

    stand_in = ModuleType("preceptor.agent.train")
    stand_in.train = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "preceptor.agent.train", stand_in)

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

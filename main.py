# ruff: noqa: T201  # the one file that prints
"""The command line: `python main.py VERB`, as `USAGE` lists them. Each verb imports what it needs, and no more."""

import contextlib
import errno
import json
import os
import secrets
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

try:
    from agent.flags import DemosConfig, DoctorConfig, EvalConfig, ListConfig, ReportConfig
    from agent.labelling.config import LabelConfig, check_label
    from agent.labels import config as labels
    from ground.errors import UserError, unknown_name
    from serving.config import ServeConfig
except ModuleNotFoundError as missing:  # the first thing that goes wrong with another Python than the project's
    again = shlex.join([".venv/bin/python", "main.py", *sys.argv[1:]])
    print(f"error: {missing}.\n  next: {again}  # make demo creates .venv", file=sys.stderr)
    sys.exit(2)

USAGE = """usage: python main.py VERB [--FLAG VALUE ...]

  train    teach an agent a task                   python main.py train --task KeyInBox --savedir first
  eval     compare players on held-out levels      python main.py eval --task KeyInBox --compare teacher,student
  report   print what runs came to, draw curves    python main.py report --task KeyInBox
  serve    a language-model server here            python main.py serve --backend vllm --detach
  demos    record an expert at work as a dataset   python main.py demos --task RescueWorld-n3 --to n3/expert-v0
  label    answer HALO's questions in a browser    python main.py label --task RescueWorld-n3 --savedir mine
  labels   what teachers said, and how well        python main.py labels show --last 20
  doctor   check the installation, or a run        python main.py doctor
  tasks    list the tasks                          python main.py tasks
  methods  list the methods                        python main.py methods

python main.py VERB --help lists the flags. Hyphens and underscores in flags are the same."""

LABELS_USAGE = """usage: python main.py labels VERB [--FLAG VALUE ...]

  show     the last calls: prompt, reply, verdict  python main.py labels show --last 20 --only rejected
  prompt   what would be sent; asks nobody         python main.py labels prompt --task KeyInBox --seed 3
  export   a label store as lines of JSON          python main.py labels export first --to labels.jsonl
  import   lines of JSON into a label store        python main.py labels import labels.jsonl --into labels.sqlite
  judge    score a teacher against the script      python main.py labels judge --task KeyInBox TwoDoor --scenes 200

python main.py labels VERB --help lists the flags."""

# Verbs of two words: what the first one alone, or with --help, prints.
USAGES = {"labels": LABELS_USAGE}


def train(config: Any) -> dict[str, Any]:
    """The `train` verb."""
    from agent.checks import check_train
    from agent.train import train as run

    check_train(config)
    return run(config)


def evaluate(config: EvalConfig) -> dict[str, Any]:
    """The `eval` verb."""
    _ = config.levels, config.players
    from agent.evaluate import evaluate as run

    return run(config)


def tasks(config: ListConfig) -> dict[str, Any]:
    """The `tasks` verb."""
    from envs.catalog import listing

    return {"head": ["family", "task", ""], "rows": [list(row) for row in listing()]}


def methods(config: ListConfig) -> dict[str, Any]:
    """The `methods` verb."""
    from agent.methods import METHODS

    return {"head": ["method", ""], "rows": [[name, words] for name, (_, words) in METHODS.items()]}


def report(config: ReportConfig) -> dict[str, Any]:
    """The `report` verb."""
    from agent.runs.report import report as run

    return run(config)


def serve(config: ServeConfig) -> dict[str, Any]:
    """The `serve` verb."""
    from serving.launch import serve as run

    def ready(result: dict[str, Any]) -> None:
        with contextlib.redirect_stdout(sys.__stdout__):
            show("serve", result, config.json)
            sys.stdout.flush()

    return run(config, tell=lambda line: print(line, file=sys.stderr, flush=True), on_ready=ready)


def doctor(config: DoctorConfig) -> dict[str, Any]:
    """The `doctor` verb."""
    from agent.runs.doctor import examine as run

    return run(config)


def demos(config: DemosConfig) -> dict[str, Any]:
    """The `demos` verb."""
    from agent.demonstrating import demos as run

    return run(config)


def label(config: LabelConfig) -> dict[str, Any]:
    """The `label` verb: the session comes from `agent`, the page from `serving`."""
    check_label(config)
    from serving.labelling.server import HOST, serve_page
    from serving.ports import bound

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    if config.review is not None:
        from agent.labelling.review import open_review

        with bound(HOST, config.port) as door:
            review = open_review(config)
            serve_page(door, review, secrets.token_urlsafe(16), tell, config.browser)
            return review.outcome()
    from agent.labelling.opening import open_session

    with bound(HOST, config.port) as door, open_session(config) as (session, token):
        serve_page(door, session, token, tell, config.browser)
        return session.outcome()


def on_labels(config: labels.Config) -> dict[str, Any]:
    """The `labels` verbs; which one, its config says."""
    labels.check(config)
    from agent.labels.verbs import run

    return run(config)


VERBS: dict[str, tuple[type, Callable[[Any], dict[str, Any]]]] = {
    "train": (object, train),
    "eval": (EvalConfig, evaluate),
    "report": (ReportConfig, report),
    "serve": (ServeConfig, serve),
    "demos": (DemosConfig, demos),
    "doctor": (DoctorConfig, doctor),
    "tasks": (ListConfig, tasks),
    "methods": (ListConfig, methods),
    "label": (LabelConfig, label),
    "labels show": (labels.ShowConfig, on_labels),
    "labels prompt": (labels.PromptConfig, on_labels),
    "labels export": (labels.ExportConfig, on_labels),
    "labels import": (labels.ImportConfig, on_labels),
    "labels judge": (labels.JudgeConfig, on_labels),
}


def verb_of(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The verb that a command begins with, of one word or two, and the words after it. Raises `UserError`."""
    first, *rest = words
    if first in VERBS:
        return first, rest
    if first not in USAGES:
        raise unknown_name("verb", first, {verb.partition(" ")[0] for verb in VERBS}, "python main.py --help")
    known = [verb.partition(" ")[2] for verb in VERBS if verb.startswith(f"{first} ")]
    if rest[0] not in known:
        raise unknown_name(f"{first} verb", rest[0], known, f"python main.py {first} --help")
    return f"{first} {rest[0]}", rest[1:]


def read(verb: str, words: Sequence[str]) -> Any:
    """The settings of a verb from its words. Raises `UserError`; exits for `--help`."""
    from agent.commandline import read as read_words

    if verb == "train":
        from agent.config import TrainConfig

        return read_words(verb, TrainConfig(), words)
    return read_words(verb, VERBS[verb][0](), words)


def show(verb: str, result: dict[str, Any], as_json: bool) -> None:
    """Print a verb's result on stdout: a line of JSON (or its `lines`), or what a person wants to read."""
    if as_json:
        for line in result.get("lines", [result]):
            print(json.dumps(line))
        return
    if verb.startswith("labels "):
        from agent.labels.text import render
    elif verb == "serve":
        from serving.describe import render
    else:
        from agent.runs.text import render

    print(render(verb, result))


def main(words: Sequence[str]) -> int:
    """Run one command; returns the exit code: 0, 1 if `doctor` found a fault, 2 for user errors, 130 if interrupted."""
    debug = "--debug" in words
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(USAGE)
            return 0 if words else 2
        if words[0] in USAGES and (len(words) == 1 or words[1] in ("-h", "--help", "help")):
            print(USAGES[words[0]])
            return 0 if len(words) > 1 else 2
        verb, rest = verb_of(words)
        config = read(verb, rest)
        with contextlib.redirect_stdout(sys.stderr) if config.json else contextlib.nullcontext():
            result = VERBS[verb][1](config)
        show(verb, result, config.json)
        sys.stdout.flush()
        return 1 if result.get("failed") else 0
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `main.py eval ... | head`: whoever reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or debug:
            raise
        print(f"error: {error}\n  next: df -h  # make room, then repeat the command", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = shlex.join([*words, *([] if "--resume" in words else ["--resume"])])
        hint = (
            f"\n  next: python main.py {again}  # continues from the last checkpoint" if words[:1] == ["train"] else ""
        )
        print(f"interrupted{hint}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

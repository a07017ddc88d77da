# ruff: noqa: T201  # the one file that prints
"""The command line: `python main.py VERB`. Each verb imports what it needs, and no more."""

import contextlib
import importlib
import json
import os
import re
import secrets
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

try:
    from preceptor.agent.commandline import default_of
    from preceptor.agent.commandline import read as read_words
    from preceptor.ground.atomic import NO_SPACE
    from preceptor.ground.errors import UserError, unknown_name
    from preceptor.ground.program import as_called
except ModuleNotFoundError as missing:  # the first thing that goes wrong with another Python than the project's
    again = shlex.join([".venv/bin/python", "main.py", *sys.argv[1:]])
    print(f"error: {missing}.\n  next: {again}  # make demo creates .venv", file=sys.stderr)
    sys.exit(2)


class Verb(NamedTuple):
    """What a verb takes and does; places are `module:name` in the package, of this file without the module."""

    settings: str
    run: str
    words: str
    example: str = ""


def _of_labels(settings: str, run: str, words: str, example: str) -> Verb:
    return Verb(f"agent.labels.config:{settings}", f"agent.labels.{run}", words, example)


VERBS = {
    "train": Verb("agent.config:TrainConfig", "agent.train:train", "teach an agent a task", "--task KeyInBox"),
    "eval": Verb("agent.flags:EvalConfig", "agent.evaluate:evaluate", "players on held-out levels", "--task KeyInBox"),
    "report": Verb("agent.flags:ReportConfig", "agent.runs.report:report", "what runs came to", "--task KeyInBox"),
    "export": Verb("agent.flags:ExportConfig", "agent.export.writing:export", "an agent, for elsewhere", "first"),
    "skills": Verb("agent.flags:NamingConfig", "agent.runs.naming:name_skills", "name what helios found", "first"),
    "serve": Verb("serving.config:ServeConfig", ":serve", "a language-model server here", "--backend vllm --detach"),
    "demos": Verb(
        "agent.flags:DemosConfig",
        "agent.demonstrating:demos",
        "record an expert at work as a dataset",
        "--task RescueWorld-n3 --to n3/expert-v0",
    ),
    "label": Verb(
        "agent.labelling.config:LabelConfig",
        ":label",
        "answer HALO's questions in a browser",
        "--task RescueWorld-n3 --savedir mine",
    ),
    "tune": Verb("agent.tune:TuneConfig", "agent.tune:tune", "search settings", "--search lr=1e-4:1e-2:log"),
    "doctor": Verb("agent.flags:DoctorConfig", "agent.runs.doctor:examine", "check the setup, or a run", "--run first"),
    "tasks": Verb("agent.flags:ListConfig", ":tasks", "list the tasks"),
    "methods": Verb("agent.flags:ListConfig", ":methods", "list the methods"),
    "labels show": _of_labels(
        "ShowConfig", "show:show", "the last calls: prompt, reply, verdict", "--last 20 --only rejected"
    ),
    "labels prompt": _of_labels(
        "PromptConfig", "dry_run:dry_run", "what would be sent; sends nothing", "--task KeyInBox --seed 3"
    ),
    "labels export": _of_labels(
        "ExportConfig", "transfer:export_calls", "a label store as lines of JSON", "first --to labels.jsonl"
    ),
    "labels import": _of_labels(
        "ImportConfig", "transfer:import_calls", "lines of JSON into a label store", "labels.jsonl --into x.sqlite"
    ),
    "labels batch": _of_labels(
        "BatchConfig", "batch:batch", "label many scenes, on many servers", "--task TwoDoor --scenes 500"
    ),
    "labels judge": _of_labels(
        "JudgeConfig", "judge:judge", "score a teacher against the script", "--task TwoDoor --scenes 200"
    ),
}
GROUPS = {"labels": "what teachers said, and how well"}  # verbs of two words, by the first
RENDER = {"serve": "serving.launch:render", "labels": "agent.labels.text:render"}  # others: preceptor.agent.runs.text
# What PyTorch, MuJoCo and NumPy say, each with an error of its own.
NO_MEMORY = re.compile("allocate|out of memory|size calculation overflowed|array is too big|dimension exceeded")
HELP = ("-h", "--help", "help")


def usage(group: str = "") -> str:
    """What `--help` prints, of all verbs or of a group of them."""
    of_group = {verb.removeprefix(group).strip(): verb for verb in VERBS if verb.startswith(group)}
    lines = [f"usage: python main.py {f'{group} ' if group else ''}VERB [--FLAG VALUE ...]", ""]
    for word, verb in of_group.items():
        if " " not in word:
            example = f"python main.py {verb} {VERBS[verb].example}".strip()
            lines.append(f"  {word:<8} {VERBS[verb].words:<39} {example}")
    lines += [f"  {word:<8} {words:<39} python main.py {word} --help" for word, words in GROUPS.items() if not group]
    return "\n".join(
        [*lines, "", "--help after a verb lists its flags. Hyphens and underscores in flags are the same."]
    )


def tasks(config: Any) -> dict[str, Any]:
    """The `tasks` verb."""
    from preceptor.envs.catalog import listing

    return {"table": [{"family": family, "task": name, "": words} for family, name, words in listing()]}


def methods(config: Any) -> dict[str, Any]:
    """The `methods` verb."""
    from preceptor.agent.methods import METHODS

    return {"table": [{"method": name, "": words} for name, (_, words) in METHODS.items()]}


def serve(config: Any) -> dict[str, Any]:
    """The `serve` verb: prints when the server is ready, and returns when it ends."""
    from preceptor.serving.launch import serve as run

    def ready(result: dict[str, Any]) -> None:
        with contextlib.redirect_stdout(sys.__stdout__):
            show("serve", result, config.json)
            sys.stdout.flush()

    return run(config, _tell, ready)


def label(config: Any) -> dict[str, Any]:
    """The `label` verb: the session comes from `agent`, the page from `serving`."""
    from preceptor.agent.labelling.opening import open_session
    from preceptor.agent.labelling.review import Review
    from preceptor.serving.labelling.app import HOST, serve_page
    from preceptor.serving.ports import bound

    with contextlib.ExitStack() as stack:
        port = stack.enter_context(bound(HOST, config.port))
        if config.review is not None:
            session: Any = Review(config)
            token = secrets.token_urlsafe(16)
        else:
            session, token = stack.enter_context(open_session(config))
        serve_page(port, session, token, _tell, config.browser)
        return session.outcome()


def _tell(line: str) -> None:
    print(as_called(line), file=sys.stderr, flush=True)


def _refused(error: UserError) -> int:
    print(f"error: {as_called(str(error))}", file=sys.stderr)
    return 2


def _function(place: str) -> Callable[..., Any]:
    """What is at `module:name` in the package."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"preceptor.{module}") if module else sys.modules[__name__], name)


def verb_of(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The verb that a command begins with, of one word or two, and the words after it. Raises `UserError`."""
    first, *rest = words
    if first in VERBS:
        return first, rest
    if first not in GROUPS:
        raise unknown_name("verb", first, {verb.partition(" ")[0] for verb in VERBS}, "python main.py --help")
    known = [verb.partition(" ")[2] for verb in VERBS if verb.startswith(f"{first} ")]
    if rest[0] not in known:
        raise unknown_name(f"{first} verb", rest[0], known, f"python main.py {first} --help")
    return f"{first} {rest[0]}", rest[1:]


def read(verb: str, words: Sequence[str]) -> Any:
    """The settings of a verb from its words. Raises `UserError`; exits for `--help`."""
    return read_words(verb, default_of(_function(VERBS[verb].settings)), words)


def show(verb: str, result: dict[str, Any], as_json: bool) -> None:
    """Print a verb's result on stdout: a line of JSON (or its `lines`), or what a person wants to read."""
    if as_json:
        for line in result.get("lines", [result]):
            print(as_called(json.dumps(line)))
        return
    print(as_called(_function(RENDER.get(verb.partition(" ")[0], "agent.runs.text:render"))(verb, result)))


def main(words: Sequence[str] | None = None) -> int:
    """Run one command, that of the process if not given; returns the exit code: 0, 1 if `doctor` found a fault, 2 for
    user errors, 130 if interrupted."""
    words = sys.argv[1:] if words is None else words
    debug = "--debug" in words
    try:
        group = words[0] if words and words[0] in GROUPS else ""
        rest = words[1:] if group else words
        if not rest or rest[0] in HELP:
            print(as_called(usage(group)))
            return 0 if rest else 2
        verb, rest = verb_of(words)
        config = read(verb, rest)
        with contextlib.redirect_stdout(sys.stderr) if config.json else contextlib.nullcontext():
            result = _function(VERBS[verb].run)(config)
        show(verb, result, config.json)
        sys.stdout.flush()
        return 1 if result.get("failed") else 0
    except UserError as error:
        if debug:
            traceback.print_exc()
        return _refused(error)
    except BrokenPipeError:  # `main.py eval ... | head`: enough was read
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if debug or not (error.errno in NO_SPACE or error.filename):
            raise
        room = "df -h  # make room, then repeat the command"
        look = "ls -ld " + shlex.quote(os.path.dirname(str(error.filename or "")) or ".")
        print(f"error: {error}\n  next: {room if error.errno in NO_SPACE else look}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = shlex.join([*words, *([] if "--resume" in words else ["--resume"])])
        hint = f"\n  next: python main.py {again}  # continues from the last checkpoint"
        print(as_called(f"interrupted{hint if words[0] == 'train' else ''}"), file=sys.stderr)
        return 130
    except Exception as error:
        from preceptor.envs.users_code import blamed

        if debug:
            raise
        if (fault := blamed(error)) is not None:
            return _refused(fault)
        if not (isinstance(error, MemoryError) or NO_MEMORY.search(str(error))):
            raise
        reason = str(error).partition("\n")[0].rstrip(".")
        smaller = f"python main.py {words[0]} --help  # name smaller sizes, and another --savedir"
        print(as_called(f"error: There is not enough memory: {reason}.\n  next: {smaller}"), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

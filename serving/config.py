"""What `serve` can be told on the command line. The text under each field is its `--help`; nothing heavy is here."""

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from annotated_types import Ge, Interval

from preceptor.ground.errors import UserError
from preceptor.ground.ranges import Count, NotNegative
from preceptor.teacher.card import TINY_MODEL
from preceptor.teacher.config import TeacherName

Backend = Literal["local", "vllm", "fastchat", "agents"]
# Settings that only some servers know.
FOR = {
    "agent": ("agents",),
    "max_sessions": ("agents",),
    "session_seconds": ("agents",),
    "batch_wait_ms": ("agents",),
    "log_observations": ("agents",),
    "workers": ("fastchat",),
    "conv_template": ("fastchat",),
    "max_model_len": ("vllm", "local"),
    "gpu_memory_utilization": ("vllm",),
}
# Read from the environment, never from the command line: what is said there, all users of the machine can see.
KEY_VARIABLE = "PRECEPTOR_SERVER_KEY"


@dataclass(frozen=True)
class FallbackConfig:
    """Whom sessions ask that are opened with `fallback`, where the controller is not sure."""

    teacher: TeacherName = "none"
    """Of agents: whom sessions ask that are opened with `fallback`: none, llm (a server), local, scripted, ..."""
    base_url: str | None = None
    """Server of --teacher llm, OpenAI protocol; OPENAI_BASE_URL if not given. The key is read from OPENAI_API_KEY."""
    teacher_model: str | None = None
    """Model of --teacher; the only one that the server offers if not given."""
    teacher_seconds: Annotated[float, Interval(ge=0.01, le=600)] = 2.0
    """Seconds that a step waits for --teacher; then the controller acts, and the answer says so."""
    max_llm_calls: Count | None = None
    """Calls that --teacher may cost for each agent, those of earlier servers included; then controllers act alone."""
    max_llm_tokens: Count | None = None
    """Tokens that it may cost, likewise."""
    learn: bool = False
    """Distil an agent's controller again from what --teacher has said, in the background; where it is at least as good
    on held-out scenes, new sessions get it. Keeps what was observed there."""
    learn_after: Annotated[int, Interval(ge=16, le=1_000_000)] = 200
    """New scenes with a label after which --learn begins."""
    learn_keep: Count = 5
    """Versions of an agent made by --learn that are kept, the newest ones; those that sessions play are kept, too."""
    usd_per_million_in: NotNegative | None = None
    """Price of a million tokens of prompts, for the cost that the page shows."""
    usd_per_million_out: NotNegative | None = None
    """Price of a million tokens of replies."""


FOR |= dict.fromkeys((field.name for field in dataclasses.fields(FallbackConfig)), ("agents",))


@dataclass(frozen=True)
class ServeConfig:
    """Start a server of a language model, or of trained agents, on this machine, watch it, and say how to use it."""

    backend: Backend | None = None
    """local (the default: a small model in the trainer's environment), vllm or fastchat (after make serve-setup); with
    --agent, agents."""
    agent: tuple[str, ...] = ()
    """Runs or exports whose agents are served, each as RUN or NAME=RUN; without a name, the last part of RUN is it."""
    model: str | None = None
    """Folder of a transformers model, or for vllm and fastchat a Hugging Face id; the tiny model if not given."""
    served_model_name: str | None = None
    """Name by which clients ask for the model; `tiny` for the tiny model, else the last part of --model."""
    host: str = "127.0.0.1"
    """Address to listen on; others than this machine can reach any but the default."""
    port: Annotated[int, Interval(ge=1, le=65535)] | None = None
    """Port to listen on, 8000 if not given; with --status or --stop, the server meant."""
    workers: Annotated[int, Interval(ge=1, le=64)] = 1
    """FastChat's model workers, each with its own copy of the model."""
    max_model_len: Count | None = None
    """Tokens of prompt and reply together, for vllm and local; if not given the model's limit, or what fits."""
    gpu_memory_utilization: Annotated[float, Interval(gt=0, le=1)] | None = None
    """Share of the GPU's memory that vllm may take; its own default if not given."""
    conv_template: str = "raw"
    """FastChat's conversation template for chat requests; raw sends the text as it is."""
    max_sessions: Annotated[int, Interval(ge=1, le=1_000_000)] = 4096
    """Of agents: sessions that may be open; more are refused until some are closed or expire."""
    session_seconds: Annotated[float, Ge(1)] = 3600.0
    """Of agents: after which a session that is not used expires."""
    batch_wait_ms: Annotated[float, Interval(ge=0, le=1000)] = 1.0
    """Of agents: milliseconds that a step waits for those of other clients, to be worked out together."""
    log_observations: bool = False
    """Of agents: log every step with its observations."""
    fallback: Annotated[FallbackConfig, tyro.conf.arg(name="")] = field(default_factory=FallbackConfig)
    """A teacher in the loop."""
    timeout: Annotated[float, Ge(1)] = 600.0
    """Seconds in which the server has to become ready."""
    detach: bool = False
    """Return once the server is ready; it goes on until --stop."""
    status: bool = False
    """List the servers that this command started."""
    stop: bool = False
    """Stop them: the one on --port, or of --backend, or the only one."""
    key_days: Annotated[float, Interval(gt=0, le=3650)] | None = None
    """Start nothing: print a key for clients of agents or of local that expires after so many days, made of
    PRECEPTOR_SERVER_KEY."""
    logdir: str = "log"
    """Logs and states go to LOGDIR/serving/BACKEND-PORT."""
    json: bool = False
    """Print JSON on stdout, a line when the server is ready and one at its end, and everything else on stderr."""
    debug: bool = False
    """Show tracebacks."""

    def resolved(self) -> "ServeConfig":
        """The same with all that was not said filled in. Raises `UserError` for a flag of another backend."""
        backend: Backend = self.backend or ("agents" if self.agent else "local")
        for name, value in changed(self):
            flag, backends = f"--{name.replace('_', '-')}", FOR.get(name, (backend,))
            if backend not in backends:
                said = " ".join(map(str, value)) if isinstance(value, tuple) else value
                example = f"python main.py serve --backend {backends[0]} {flag} {said}"
                raise UserError(f"{flag} is for {' and '.join(backends)}; {backend} does not know it.", example)
        if backend == "agents":
            runs = self.runs()
            if self.fallback.learn and self.fallback.teacher == "none":
                example = f"python main.py serve --agent {self.agent[0]} --teacher local --learn"
                raise UserError("--learn learns from a teacher, and none is named.", example)
            if "=" not in (self.model or "="):  # a config that is resolved has its runs there
                raise UserError(
                    "--agent serves agents, not a --model.", f"python main.py serve --agent {self.agent[0]}"
                )
            model, name = " ".join(f"{name}={run}" for name, run in runs.items()), ",".join(runs)
            return dataclasses.replace(
                self, backend=backend, model=model, served_model_name=name, port=self.port or 8000
            )
        model = self.model or str(TINY_MODEL)
        name = self.served_model_name or name_of(model)
        if Path(model).is_dir():
            model = str(Path(model).resolve())
        return dataclasses.replace(self, backend=backend, model=model, served_model_name=name, port=self.port or 8000)

    def runs(self) -> dict[str, str]:
        """The runs of --agent by the names of the agents. Raises `UserError` for none, or two of a name."""
        found: dict[str, str] = {}
        for said in self.agent:
            name, equals, run = said.partition("=")
            run = run if equals else said
            name = name if equals else run.rstrip("/").rpartition("/")[2]
            if not re.fullmatch(r"[\w.-]+", name):
                raise UserError(f"--agent {said}: {name!r} is no name.", f"--agent first={run or 'RUN'}")
            if name in found:
                again = f"--agent {name}={found[name]} {name}-2={run}"
                raise UserError(f"Two agents would be called {name}.", f"python main.py serve {again}")
            found[name] = run
        if not found:
            raise UserError("No agent is named.", "python main.py serve --agent RUN  # the name or path of a run")
        return found

    @property
    def name(self) -> str:
        """What this server is called: `vllm-8000`. Of a resolved config."""
        return f"{self.backend}-{self.port}"

    @property
    def folder(self) -> Path:
        """Where its logs and its state lie. Of a resolved config."""
        return Path(self.logdir).resolve() / "serving" / self.name

    @property
    def base_url(self) -> str:
        """Where clients on this machine reach it. Of a resolved config."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/v1"

    def words(self) -> list[str]:
        """The command-line words that say this config again."""
        return words_of(self)


def changed(config: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of what a config says that is not the default, those of configs inside it included."""
    for each in dataclasses.fields(config):
        if dataclasses.is_dataclass(value := getattr(config, each.name)):
            yield from changed(value)
        elif value != each.default:
            yield each.name, value


def words_of(config: Any) -> list[str]:
    """The command-line words that say a config again."""
    said: list[str] = []
    for name, value in changed(config):
        values = value if isinstance(value, tuple) else [] if value is True else [value]
        said += [f"--{name.replace('_', '-')}", *map(str, values)]
    return said


def name_of(model: str) -> str:
    """Name by which clients ask for a model, a folder or an id, that was given none."""
    return "tiny" if Path(model).resolve() == TINY_MODEL else model.rstrip("/").rpartition("/")[2]

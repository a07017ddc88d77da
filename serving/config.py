"""What `serve` can be told on the command line. The text under each field is its `--help`; nothing heavy is here."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ground.errors import UserError, unknown_name
from teacher.card import TINY_MODEL

ROOT = Path(__file__).parents[1]
BACKENDS = ("local", "vllm", "fastchat")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Settings that only some servers know.
FOR = {
    "workers": ("fastchat",),
    "conv_template": ("fastchat",),
    "max_model_len": ("vllm", "local"),
    "gpu_memory_utilization": ("vllm",),
}
RANGES: dict[str, tuple[float, float]] = {
    "port": (1, 65535),
    "workers": (1, 64),
    "max_model_len": (1, 10_000_000),
    "gpu_memory_utilization": (0.01, 1.0),
    "timeout": (1.0, 86_400.0),
}
# Read from the environment, never from the command line: what is said there, all users of the machine can see.
KEY_VARIABLE = "PRECEPTOR_SERVER_KEY"


@dataclass(frozen=True)
class ServeConfig:
    """Start a language-model server on this machine, watch it, and say how to be taught by it."""

    backend: str | None = None
    """local (the default: a small model in the trainer's environment), vllm or fastchat (after make serve-setup)."""
    model: str | None = None
    """Folder of a transformers model, or for vllm and fastchat a Hugging Face id; the tiny model if not given."""
    served_model_name: str | None = None
    """Name by which clients ask for the model; `tiny` for the tiny model, else the last part of --model."""
    host: str = "127.0.0.1"
    """Address to listen on; others than this machine can reach any but the default."""
    port: int | None = None
    """Port to listen on, 8000 if not given; with --status or --stop, the server meant."""
    workers: int = 1
    """FastChat's model workers, each with its own copy of the model."""
    max_model_len: int | None = None
    """Tokens of prompt and reply together, for vllm and local; if not given the model's limit, or what fits."""
    gpu_memory_utilization: float | None = None
    """Share of the GPU's memory that vllm may take; its own default if not given."""
    conv_template: str = "raw"
    """FastChat's conversation template for chat requests; raw sends the text as it is."""
    timeout: float = 600.0
    """Seconds in which the server has to become ready."""
    detach: bool = False
    """Return once the server is ready; it goes on until --stop."""
    status: bool = False
    """List the servers that this command started."""
    stop: bool = False
    """Stop them: the one on --port, or of --backend, or the only one."""
    logdir: str = "log"
    """Logs and states go to LOGDIR/serving/BACKEND-PORT."""
    json: bool = False
    """Print JSON on stdout, a line when the server is ready and one at its end, and everything else on stderr."""
    debug: bool = False
    """Show tracebacks."""

    def resolved(self) -> "ServeConfig":
        """The same with everything filled in that was not said.

        Raises:
            UserError: A value that cannot be meant.
        """
        backend = self.backend or "local"
        if backend == "faulty":
            what = "The server that misbehaves belongs to the tests; serve does not start it any more."
            raise UserError(what, "python -m tests.faulty_server --script tests/faulty_server/example.toml")
        if backend not in BACKENDS:
            raise unknown_name("backend", backend, BACKENDS, "python main.py serve --help")
        self._check(backend)
        model = self.model or str(TINY_MODEL)
        name = self.served_model_name or name_of(model)
        if Path(model).is_dir():
            model = str(Path(model).resolve())
        return dataclasses.replace(self, backend=backend, model=model, served_model_name=name, port=self.port or 8000)

    def _check(self, backend: str) -> None:
        """Refuse what cannot be meant."""
        again = f"python main.py serve --backend {backend}"
        for field, backends in FOR.items():
            flag = f"--{field.replace('_', '-')}"
            value = getattr(self, field)
            if backend not in backends and value != getattr(ServeConfig, field):
                example = f"python main.py serve --backend {backends[0]} {flag} {value}"
                raise UserError(f"{flag} is for {' and '.join(backends)}; {backend} does not know it.", example)
        for field, (least, most) in RANGES.items():
            value = getattr(self, field)
            if value is not None and not least <= value <= most:
                flag = f"--{field.replace('_', '-')}"
                raise UserError(f"{flag} {value} has to be from {least} to {most}.", f"{again} {flag} {most}")

    @property
    def name(self) -> str:
        """What this server is called: `vllm-8000`. Of a resolved config."""
        return f"{self.backend}-{self.port}"

    @property
    def folder(self) -> Path:
        """Where its logs and its state lie. Of a resolved config."""
        return Path(self.logdir).resolve() / "serving" / self.name

    @property
    def reached_host(self) -> str:
        """The address by which this machine reaches it."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)

    @property
    def url(self) -> str:
        """Where it is reached from this machine, without /v1. Of a resolved config."""
        return f"http://{f'[{self.reached_host}]' if ':' in self.host else self.reached_host}:{self.port}"

    def words(self) -> list[str]:
        """The command-line words that say this config again."""
        said: list[str] = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                said += [f"--{field.name.replace('_', '-')}", *([] if value is True else [str(value)])]
        return said


def name_of(model: str) -> str:
    """Name by which clients ask for a model, a folder or an id, that was given none."""
    return "tiny" if Path(model).resolve() == TINY_MODEL else model.rstrip("/").rpartition("/")[2]

"""The script of a server that misbehaves: what it can do, and what goes wrong when; also as TOML."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from preceptor.ground.errors import UserError, unknown_name
from tests.faulty_server.faults import FAULTS

EXAMPLE = Path(__file__).parent / "example.toml"  # explains all that is below
Manner = Literal["honoured", "ignored", "refused"]
Count = Annotated[int, Field(ge=1, strict=True)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Step:
    """One fault, and which of the requests that follow meet it: `times` of those that it is about, `after` others."""

    fault: str
    times: Count = 1
    forever: bool = False
    probability: float = Field(default=1.0, gt=0, le=1)
    seed: int = 0
    after: int = Field(default=0, ge=0)
    on: Literal["generation", "models", "any"] = "generation"
    seconds: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _makes_sense(self) -> "Step":
        if self.fault not in FAULTS:
            raise unknown_name("fault", self.fault, FAULTS, f"see {EXAMPLE}")
        if self.seconds is not None and FAULTS[self.fault].seconds is None:
            raise ValueError(f"seconds means nothing to {self.fault}")
        return self

    @property
    def lasting(self) -> float:
        """Seconds that a fault of the wire takes."""
        return (FAULTS[self.fault].seconds or 0.0) if self.seconds is None else self.seconds

    def concerns(self, kind: str, request: Mapping[str, Any]) -> bool:
        """Whether a request of a kind can meet this fault; one that would change nothing is not spent on it."""
        wanted = {"generation": ("chat", "completions"), "models": ("models",), "any": (kind,)}[self.on]
        return kind in wanted and FAULTS[self.fault].matters(request)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Script:
    """A server: what it can do when it behaves, and the steps in which it does not."""

    models: tuple[str, ...] = Field(default=("toy",), min_length=1)
    dialect: Literal["openai", "fastchat"] = "openai"
    logprobs: Manner = "honoured"
    top_logprobs: Count = 20
    structured_outputs: Manner = "honoured"
    echo: Manner = "honoured"
    refuses: tuple[str, ...] = ()
    thinks: int = Field(default=0, ge=0)
    context: Count = 4096
    key: str = ""
    off_menu: float = Field(default=0.0, ge=0, lt=1)
    likes: Mapping[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    steps: tuple[Step, ...] = ()


def read_script(path: Path | str) -> Script:
    """The script in a file. Raises `UserError` with the name of what is wrong."""
    try:
        return TypeAdapter(Script).validate_python(tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except ValidationError as error:
        wrong = error.errors()[0]
        what = f"{path}: {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}."
        raise UserError(what, f"compare it with {EXAMPLE}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"The script {path} cannot be read: {error}.", f"begin with a copy of {EXAMPLE}") from error

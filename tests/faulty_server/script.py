"""The script of a server that misbehaves: what it can do, and what goes wrong when; also as TOML."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from ground.errors import UserError, unknown_name
from tests.faulty_server.faults import FAULTS

EXAMPLE = Path(__file__).parent / "example.toml"
Manner = Literal["honoured", "ignored", "refused"]
Count = Annotated[int, Field(ge=1, strict=True)]
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class Step:
    """One fault, and which of the requests that follow meet it.

    Attributes:
        fault: Its name, one of `FAULTS`.
        times: Requests that meet it; then the next step begins.
        forever: It never ends.
        probability: Chance that a request meets it, drawn with `seed`.
        after: Requests of its kind that are answered properly first.
        on: The requests that it is about: `generation` (chat or completions), `models` or `any`.
        seconds: How long it takes; for `rate_limit`, the Retry-After. None for the fault's own default.
    """

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
        if self.seconds is not None and not FAULTS[self.fault].timed:
            raise ValueError(f"seconds means nothing to {self.fault}")
        return self

    def concerns(self, kind: str, request: Mapping[str, Any]) -> bool:
        """Whether a request of a kind can meet this fault; one that would change nothing is not spent on it."""
        wanted = {"generation": ("chat", "completions"), "models": ("models",), "any": (kind,)}[self.on]
        return kind in wanted and FAULTS[self.fault].matters(request)


@dataclass(frozen=True, config=_STRICT)
class Script:
    """A server: what it can do when it behaves, and the steps in which it does not.

    Attributes:
        models: Ids that it lists.
        dialect: Whose errors and habits it has: `openai` (vLLM's too) or `fastchat`.
        logprobs: What becomes of a wish for log-probabilities on chat: `honoured`, `ignored` (HTTP 200) or `refused`.
        top_logprobs: Most alternatives; more are refused.
        structured_outputs: What becomes of a constraint.
        echo: What becomes of `echo` on completions.
        context: Tokens of a prompt with its reply.
        key: The key that it wants; empty for none.
        off_menu: Share of the toy model's probability that is on no letter.
        likes: Option words -> weight against the 1 of an option that is not named here. Empty: a hash of the words.
        steps: Faults, in order.
    """

    models: tuple[str, ...] = Field(default=("toy",), min_length=1)
    dialect: Literal["openai", "fastchat"] = "openai"
    logprobs: Manner = "honoured"
    top_logprobs: Count = 20
    structured_outputs: Manner = "honoured"
    echo: Manner = "honoured"
    context: Count = 4096
    key: str = ""
    off_menu: float = Field(default=0.0, ge=0, lt=1)
    likes: Mapping[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    steps: tuple[Step, ...] = ()


def read_script(path: Path | str) -> Script:
    """The script in a file. Raises `UserError` with the name of what is wrong."""
    try:
        return TypeAdapter(Script).validate_python(tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"The script {path} cannot be read: {error}.", f"begin with a copy of {EXAMPLE}") from error
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"]))
        raise UserError(f"{path}: {where}: {wrong['msg']}.", f"compare it with {EXAMPLE}") from error

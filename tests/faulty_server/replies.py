"""What a server answers to a request when nothing is wrong: the OpenAI protocol over the toy model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.faulty_server.faults import Fault, Response, fastchat_error, openai_error
from tests.faulty_server.script import Script
from tests.faulty_server.toy import Toy, Weights, chat_logprobs, completion_logprobs, tokens

_MAX_TOKENS = {"chat": 256, "completions": 16}


class Refusal(Exception):
    """A request that is not answered.

    Args:
        status: As OpenAI has it; FastChat's is 400 whatever happened.
        code: FastChat's code.
    """

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def response(self, dialect: str) -> Response:
        """It in the words of a dialect."""
        if dialect == "fastchat":
            return fastchat_error(self.code, str(self))
        kinds = {401: "AuthenticationError", 404: "NotFoundError"}
        return openai_error(self.status, str(self), kinds.get(self.status, "BadRequestError"))


@dataclass(frozen=True)
class Asked:
    """A request, read.

    Attributes:
        prompt: What the model reads: of a chat, the contents of its messages.
        last: What a callable in place of the toy model reads: of a chat, the last message.
        top: Alternatives wanted with each token; None for no log-probabilities.
        choice: What the reply is constrained to; None for anything.
    """

    kind: str
    prompt: str
    last: str
    n: int
    max_tokens: int
    temperature: float
    seed: int | None
    echo: bool
    top: int | None
    choice: list[str] | None


def reply(kind: str, request: Mapping[str, Any], script: Script, toy: Toy, fault: Fault | None = None) -> Response:
    """The response to a request of kind `chat`, `completions` or `models`, what is said as a fault would have it."""
    try:
        if kind == "models":
            listed = [{"id": name, "object": "model", "created": 0, "owned_by": "preceptor"} for name in script.models]
            return 200, {}, {"object": "list", "data": [{**model, "max_model_len": script.context} for model in listed]}
        return 200, {}, _generate(_read(kind, request, script), request, script, toy, fault)
    except Refusal as refusal:
        return refusal.response(script.dialect)
    except (TypeError, ValueError) as error:  # a number that is none
        return Refusal(400, 40001, f"The request cannot be read: {error}.").response(script.dialect)


def _generate(
    asked_all: list[Asked], request: Mapping[str, Any], script: Script, toy: Toy, fault: Fault | None
) -> dict[str, Any]:
    choices = [
        choice
        for index, asked in enumerate(asked_all)
        for choice in _choices(asked, index * asked.n, script.dialect == "fastchat", toy, fault)
    ]
    read = sum(len(tokens(asked.prompt)) for asked in asked_all)
    said = sum(len(tokens(_text(choice))) for choice in choices)
    chat = asked_all[0].kind == "chat"
    body: dict[str, Any] = {
        "id": "chatcmpl-toy" if chat else "cmpl-toy",
        "object": "chat.completion" if chat else "text_completion",
        "created": 0,
        "model": request["model"],
        "choices": choices,
        "usage": {"prompt_tokens": read, "completion_tokens": said, "total_tokens": read + said},
    }
    if fault is not None and fault.spoil is not None:
        fault.spoil(body)
    return body


def _choices(asked: Asked, first: int, fastchat: bool, toy: Toy, fault: Fault | None) -> list[dict[str, Any]]:
    said = toy.answer(asked.last) if asked.choice is None else toy.constrained(asked.last, asked.choice)
    if isinstance(said, str):
        texts = [said] * asked.n
    else:
        texts = toy.draw(said, asked.temperature, asked.prompt, asked.seed, asked.n)
    return [_choice(asked, first + i, text, said, fastchat, toy, fault) for i, text in enumerate(texts)]


def _choice(
    asked: Asked, index: int, text: str, said: Weights | str, fastchat: bool, toy: Toy, fault: Fault | None
) -> dict[str, Any]:
    finish = "stop"
    if fault is not None and fault.say is not None:
        text, finish = fault.say(text), fault.finish
        said = text
    else:
        kept = "".join(tokens(text)[: asked.max_tokens])
        text, finish = kept, "stop" if kept == text else "length"
    logprobs: dict[str, Any] | None = None
    if asked.kind == "chat":
        if asked.top is not None:
            logprobs = chat_logprobs(said, text, asked.top)
        message = {"role": "assistant", "content": text}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}
    if asked.top is not None:
        logprobs = completion_logprobs(asked.prompt, text, toy, asked.top, echo=asked.echo, fastchat=fastchat)
    shown = asked.prompt + text if asked.echo else text
    return {"index": index, "text": shown, "logprobs": logprobs, "finish_reason": finish}


def _text(choice: dict[str, Any]) -> str:
    text: str = choice["message"]["content"] if "message" in choice else choice["text"]
    return text


def _read(kind: str, request: Mapping[str, Any], script: Script) -> list[Asked]:
    """The prompts of a request. Raises `Refusal`."""
    if request.get("model") not in script.models:
        only = f"Only {'&&'.join(script.models)} allowed now, your model {request.get('model')}"
        missing = f"The model `{request.get('model')}` does not exist."
        raise Refusal(404, 40301, only if script.dialect == "fastchat" else missing)
    if request.get("stream"):
        raise Refusal(400, 40302, "This server does not stream.")
    prompts = _prompts(kind, request)
    limit = request.get("max_tokens", request.get("max_completion_tokens"))
    max_tokens = int(_MAX_TOKENS[kind] if limit is None else limit)
    least = 0 if kind == "completions" and request.get("echo") and script.dialect == "openai" else 1
    if max_tokens < least:
        raise Refusal(400, 40302, f"{max_tokens} is less than the minimum of {least} - 'max_tokens'")
    if not 1 <= int(request.get("n") or 1) <= 256:
        raise Refusal(400, 40302, f"{request['n']} is not between 1 and 256 - 'n'")
    asked: dict[str, Any] = {
        "kind": kind,
        "n": int(request.get("n") or 1),
        "max_tokens": max_tokens,
        "temperature": float(1.0 if request.get("temperature") is None else request["temperature"]),
        "seed": None if script.dialect == "fastchat" else request.get("seed"),
        "echo": kind == "completions" and _honoured("echo", bool(request.get("echo")), script.echo),
        "top": _top(kind, request, script),
        "choice": _constraint(request, script),
    }
    for prompt, _ in prompts:
        read = len(tokens(prompt))
        if read + max_tokens > script.context:
            raise Refusal(
                400,
                40303,
                f"This model's maximum context length is {script.context} tokens. However, you requested {max_tokens} "
                f"output tokens and your prompt contains {read} input tokens: {read + max_tokens} tokens in all.",
            )
    return [Asked(prompt=prompt, last=last, **asked) for prompt, last in prompts]


def _prompts(kind: str, request: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(whole prompt, its last message) of each prompt of a request."""
    if kind == "chat":
        messages = request.get("messages")
        well_formed = isinstance(messages, list) and all(isinstance(message, dict) for message in messages)
        contents = [message.get("content") for message in messages] if well_formed and messages else [None]
        if not all(isinstance(content, str) for content in contents):
            raise Refusal(400, 40001, "messages must be a list of messages whose content is a text.")
        return [("\n".join(map(str, contents)), str(contents[-1]))]
    prompt = request.get("prompt")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not prompts or not all(isinstance(text, str) for text in prompts):
        raise Refusal(400, 40001, "prompt must be a text or a list of texts.")
    return [(text, text) for text in prompts]


def _honoured(what: str, wanted: bool, manner: str) -> bool:
    if wanted and manner == "refused":
        raise Refusal(400, 40302, f"{what} is not supported by this server.")
    return wanted and manner == "honoured"


def _top(kind: str, request: Mapping[str, Any], script: Script) -> int | None:
    logprobs = request.get("logprobs")
    wanted = logprobs is not None and logprobs is not False
    top = int((request.get("top_logprobs") or 0) if kind == "chat" else (logprobs or 0))
    if wanted and top > script.top_logprobs:
        raise Refusal(400, 40302, f"{top} log-probabilities were requested, and {script.top_logprobs} are allowed.")
    manner = script.logprobs if kind == "chat" else script.echo if request.get("echo") else "honoured"
    return top if _honoured("logprobs", wanted, manner) else None


def _constraint(request: Mapping[str, Any], script: Script) -> list[str] | None:
    constraint = request.get("structured_outputs")
    if not _honoured("structured_outputs", constraint is not None, script.structured_outputs):
        return None
    choice = constraint.get("choice") if isinstance(constraint, dict) else None
    if not isinstance(choice, list) or not choice or not all(isinstance(text, str) and text for text in choice):
        raise Refusal(400, 40302, "structured_outputs must be {'choice': [texts]} on this server.")
    return choice

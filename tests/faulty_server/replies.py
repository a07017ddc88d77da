"""What a server answers to a request when nothing is wrong: the OpenAI protocol over the toy model."""

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from tests.faulty_server.faults import Fault, Response, fastchat_error, openai_error
from tests.faulty_server.script import Script
from tests.faulty_server.toy import Toy, Weights, tokens

_MAX_TOKENS = {"chat": 256, "completions": 16}
_OTHER = math.log(0.5)  # of tokens that nothing scores: an echoed prompt's, and a reply's after its first
_SCORED = 64  # tokens of a reply that come with log-probabilities, lest a megabyte become a hundred


class Refusal(Exception):
    """A request that is not answered: OpenAI's status, FastChat's code (whose status is always 400), the message."""

    def response(self, dialect: str) -> Response:
        """The error in the words of a dialect."""
        status, code, message = self.args
        kinds = {401: "AuthenticationError", 404: "NotFoundError"}
        if dialect == "fastchat":
            return fastchat_error(code, message)
        return openai_error(status, message, kinds.get(status, "BadRequestError"))


def reply(kind: str, request: Mapping[str, Any], script: Script, toy: Toy, fault: Fault | None = None) -> Response:
    """The response to a request of kind `chat`, `completions` or `models`, what is said as a fault would have it."""
    try:
        if kind == "models":
            return 200, {}, {"data": [{"id": name, "max_model_len": script.context} for name in script.models]}
        return 200, {}, _generate(kind, request, script, toy, fault)
    except Refusal as refusal:
        return refusal.response(script.dialect)


def _generate(kind: str, request: Mapping[str, Any], script: Script, toy: Toy, fault: Fault | None) -> dict[str, Any]:
    """The body of a reply. Raises `Refusal`."""
    chat, fastchat, n = kind == "chat", script.dialect == "fastchat", int(request.get("n") or 1)
    if request.get("model") not in script.models:
        only = f"Only {'&&'.join(script.models)} allowed now, your model {request.get('model')}"
        raise Refusal(404, 40301, only if fastchat else f"The model `{request.get('model')}` does not exist.")
    echo = not chat and _honoured("echo", request, script.echo)
    limit = int(request.get("max_tokens", _MAX_TOKENS[kind]))
    least = 0 if echo and not fastchat else 1
    if limit < least:
        raise Refusal(400, 40302, f"{limit} is less than the minimum of {least} - 'max_tokens'")
    top = _top(chat, request, script)
    choice = _honoured("structured_outputs", request, script.structured_outputs)
    seed = None if fastchat else request.get("seed")
    choices, read = [], 0
    for prompt, last in _prompts(chat, request):
        size = len(tokens(prompt))
        if size + limit > script.context:
            what = f"This model's maximum context length is {script.context} tokens. However, you requested {limit} "
            raise Refusal(400, 40303, f"{what}output tokens and your prompt contains {size} input tokens.")
        read += size
        said = toy.constrained(last, request["structured_outputs"]["choice"]) if choice else toy.answer(last)
        texts = [said] * n
        if isinstance(said, dict):
            texts = toy.draw(said, float(request.get("temperature", 1.0)), prompt, seed, n)
        for text in texts:
            text, finish = _limited(str(text), limit, fault)
            spoken = text if fault is not None and fault.say is not None else said
            shown: dict[str, Any] = {"message": {"role": "assistant", "content": text}}
            logprobs = None
            if not chat:
                shown = {"text": prompt + text if echo else text}
            if top is not None and chat:
                logprobs = chat_logprobs(spoken, text, top)
            elif top is not None:
                logprobs = completion_logprobs(prompt, text, toy, top, echo=echo, fastchat=fastchat)
            choices.append({"index": len(choices), **shown, "logprobs": logprobs, "finish_reason": finish})
    wrote = sum(len(tokens(each["message"]["content"] if chat else each["text"])) for each in choices)
    usage = {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}
    kind = "chat.completion" if chat else "text_completion"
    body = {"id": "toy", "object": kind, "created": 0, "model": request["model"], "choices": choices, "usage": usage}
    if fault is not None and fault.spoil is not None:
        fault.spoil(body)
    return body


def _limited(text: str, limit: int, fault: Fault | None) -> tuple[str, str]:
    """What is said, and why it ends."""
    if fault is not None and fault.say is not None:
        return fault.say(text), fault.finish
    kept = "".join(tokens(text)[:limit])
    return kept, "stop" if kept == text else "length"


def _prompts(chat: bool, request: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(whole prompt, its last message) of each prompt of a request."""
    if chat:
        contents = [message["content"] for message in request["messages"]]
        return [("\n".join(contents), contents[-1])]
    prompt = request["prompt"]
    return [(text, text) for text in ([prompt] if isinstance(prompt, str) else prompt)]


def _honoured(what: str, request: Mapping[str, Any], manner: str) -> bool:
    wanted = request.get(what) not in (None, False)
    if wanted and manner == "refused":
        raise Refusal(400, 40302, f"{what} is not supported by this server.")
    return wanted and manner == "honoured"


def _top(chat: bool, request: Mapping[str, Any], script: Script) -> int | None:
    """Alternatives to give with each token; None for no log-probabilities."""
    top = int((request.get("top_logprobs") if chat else request.get("logprobs")) or 0)
    if top > script.top_logprobs:
        raise Refusal(400, 40302, f"{top} log-probabilities were requested, and {script.top_logprobs} are allowed.")
    manner = script.logprobs if chat else script.echo if request.get("echo") else "honoured"
    return top if _honoured("logprobs", request, manner) else None


def ranked(said: Weights | str, count: int) -> list[tuple[str, float]]:
    """(token, log-probability) of the most probable first tokens."""
    weights = said if isinstance(said, dict) else {(tokens(said) or [""])[0]: 1.0}
    found = sorted(((text, math.log(p)) for text, p in weights.items() if p > 0), key=lambda pair: -pair[1])
    return found[:count]


def _own(said: Weights | str, token: str) -> float:
    """Log-probability of a first token; of one that the toy would never say, a very small one, as of a real model."""
    return dict(ranked(said, 1000)).get(token, -20.0)


def chat_logprobs(said: Weights | str, text: str, top: int) -> dict[str, Any]:
    """The `logprobs` of a chat choice whose text is `text`."""
    content = []
    for position, token in enumerate(tokens(text)[:_SCORED]):
        tops = ranked(said, top) if position == 0 else [(token, _OTHER)][:top]
        own = _own(said, token) if position == 0 else _OTHER
        content.append({"token": token, "logprob": own, "top_logprobs": [{"token": t, "logprob": p} for t, p in tops]})
    return {"content": content}


def completion_logprobs(prompt: str, text: str, toy: Toy, top: int, *, echo: bool, fastchat: bool) -> dict[str, Any]:
    """The `logprobs` of a completions choice: of the reply's tokens, and with echo of the prompt's before them.

    Of an echoed prompt the last token is scored against what stands before it; no way of asking reads the others.
    """
    rows: list[tuple[str, float | None, dict[str, float] | None]] = []

    def score(token: str, before: str) -> None:
        said = toy.answer(before)
        rows.append((token, _own(said, token), dict([*ranked(said, top), (token, _own(said, token))])))

    if echo:
        *before, last = tokens(prompt)
        rows = [(token, _OTHER if i else None, {token: _OTHER} if i else None) for i, token in enumerate(before)]
        score(last, "".join(before))
    for position, token in enumerate(tokens(text)[:_SCORED]):
        score(token, prompt) if position == 0 else rows.append((token, _OTHER, {token: _OTHER}))
    names, own, tops = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    offsets = accumulate(map(len, names), initial=0 if echo else len(prompt))
    return {
        "text_offset": list(offsets)[:-1],
        "token_logprobs": own,
        "tokens": names,
        "top_logprobs": [{} for _ in rows] if fastchat else tops,
    }

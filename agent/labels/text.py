"""The text of a `labels` verb's result. What a model wrote is shown with its control characters escaped."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from teacher.call import FALLBACK, OK

_SHOWN_CHARACTERS = 600  # of a reply


def render(verb: str, result: Mapping[str, Any]) -> str:
    """The text of a result."""
    return _RENDERERS[verb](result)


def printable(text: str) -> str:
    """A text that a terminal shows and does not obey."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def _short(text: str) -> str:
    """The beginning of what may be a megabyte."""
    shown = text[:_SHOWN_CHARACTERS]
    return shown if shown == text else f"{shown} ... ({len(text):,} characters)"


def _show(result: Mapping[str, Any]) -> str:
    """Calls, oldest first; what the prompts of one template have in common is printed once."""
    lines, said = [f"{result['store']}: {len(result['lines'])} calls"], dict[str, str]()
    for call in result["lines"]:
        lines += ["", *_call(call, said)]
    return printable("\n".join(lines))


def _call(call: Mapping[str, Any], said: dict[str, str]) -> list[str]:
    date = datetime.fromtimestamp(call["created"], UTC).strftime("%Y-%m-%d %H:%M:%S")
    verdict = "answer" if call["status"] == OK else call["status"]
    lines = [
        f"#{call['row']}  {date}  {call['task']}  {verdict}",
        f"  {call['source']}, {call['method']}, sample {call['sample']}; model {call['model']}; "
        f"prompt {call['template'] or ''} {call['prompt'] or 'none'}; query {call['query'][:12]}",
        f"  {call['tokens']:,} tokens, {1000 * call['seconds']:,.1f} ms",
    ]
    if call["messages"]:
        for message in call["messages"]:
            lines += _message(message, f"#{call['row']}", said)
    else:
        lines += _block(f"scene ({call['note']})", call["scene"])
    lines += _block("reply", _short(call["reply"]) or "(empty)")
    if call["probs"]:
        chances = [f"{option['probability']:.3f}  {option['letter']}) {option['option']}" for option in call["shown"]]
        lines += _block("read as", "\n".join(chances))
    if call["why"]:
        lines += _block("fallback" if call["status"] == FALLBACK else "rejected", _short(call["why"]))
    return lines


def _message(message: Mapping[str, str], where: str, said: dict[str, str]) -> list[str]:
    """A message of a prompt; a system message in full only the first time."""
    role, content = message["role"], message["content"]
    if content in said:
        return [f"  [{role}] as in {said[content]}"]
    if role == "system":
        said[content] = where
    return _block(f"[{role}]", content)


def _block(title: str, text: str) -> list[str]:
    return [f"  {title}", *(f"    {line}" for line in text.split("\n"))]


def _prompt(result: Mapping[str, Any]) -> str:
    """The scene, and the messages of every call; a system message that they share is printed once."""
    prompts, said = result["prompts"], dict[str, str]()
    lines = [
        f"{result['task']}, scene {result['index']} of seed {result['seed']}; template {result['template']}, "
        f"hash {result['prompt']}",
        f"facts: {', '.join(result['facts'])}",
        f"legal: {', '.join(result['legal'])}",
    ]
    for number, prompt in enumerate(prompts, start=1):
        lines += ["", f"call {number} of {len(prompts)}, about {prompt['tokens']:,} tokens: {prompt['menu']}"]
        for message in prompt["messages"]:
            lines += _message(message, f"call {number}", said)
    asked = f"{len(prompts)} calls, about {result['tokens']:,} tokens ({result['counted']})"
    last = asked if prompts else "only one option is legal: no model would be asked"
    return "\n".join([*lines, "", last, "a dry run: nothing was sent"])


def _export(result: Mapping[str, Any]) -> str:
    return f"{result['file']}: {result['lines_written']:,} calls of {result['store']}"


def _import(result: Mapping[str, Any]) -> str:
    kept = f"; {result['kept']:,} other answers to the same questions stay out" if result["kept"] else ""
    return f"{result['store']}: {result['added']:,} calls added, {result['known']:,} known already{kept}"


def _judge(result: Mapping[str, Any]) -> str:
    """The table and its caption."""
    rows = result["rows"]
    head, body = ["model", "task"], [[row["model"], row["task"]] for row in rows]
    for title, cell in _COLUMNS:
        cells = [cell(row) for row in rows]
        if any(cells):
            head.append(title)
            for line, text in zip(body, cells, strict=True):
                line.append(text)
    return (_latex if result["latex"] else _markdown)(head, body, _caption(result))


def _caption(result: Mapping[str, Any]) -> str:
    first = result["rows"][0]
    prompts = ", ".join(f"{row['template']} ({row['task']})" for row in result["rows"] if " " in row["template"])
    asked = f"; prompt {prompts}; {first['permutations']} menu orders per scene" if prompts else ""
    return (
        f"Teacher {result['teacher']}, method {first['method']}{asked}; seed {first['seed']}. Accuracy: scenes whose "
        "single most probable option is that of the task's script, with 95% Wilson intervals; abstentions are wrong. "
        "ECE over 15 bins; Brier summed over options. Position bias: total variation of the probability by place on "
        "the menu against uniform. Order: scenes whose best option changes with the order of the menu. "
        "p50, p95: time of a call, its share where several travel in one request."
    )


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]], caption: str) -> str:
    rows = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *body]
    return "\n".join(["| " + " | ".join(row) + " |" for row in rows] + ["", caption])


def _latex(head: Sequence[str], body: Sequence[Sequence[str]], caption: str) -> str:
    rows = [" & ".join(map(_escaped, row)) + r" \\" for row in (head, *body)]
    table = [r"\begin{tabular}{ll" + "r" * (len(head) - 2) + "}", r"\toprule", rows[0], r"\midrule", *rows[1:]]
    table += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([r"\begin{table}", *table, r"\caption{" + _escaped(caption) + "}", r"\end{table}"])


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in "&%$#_{}" else {"\\": r"\textbackslash{}", "~": r"\~{}"}.get(c, c) for c in text)


def _figure(name: str, form: str, scale: int = 1) -> Callable[[Mapping[str, Any]], str]:
    """A column of one figure, empty where it was not measured."""
    return lambda row: "" if row.get(name) is None else format(scale * row[name], form)


_COLUMNS: tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("n", _figure("scenes", ",")),
    ("accuracy [95%]", lambda row: f"{row['accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"),
    ("ECE", _figure("ece", ".3f")),
    ("Brier", _figure("brier", ".3f")),
    ("position bias", _figure("position_bias", ".3f")),
    ("order", _figure("order_changes", ".1%")),
    ("valid", _figure("valid", ".1%")),
    ("abstained", _figure("abstained", ".1%")),
    ("p50 ms", _figure("seconds_p50", ",.1f", 1000)),
    ("p95 ms", _figure("seconds_p95", ",.1f", 1000)),
    ("tokens/scene", _figure("tokens_per_scene", ",.0f")),
    ("calls", _figure("calls", ",")),
    ("USD", _figure("usd", ".4f")),
)

_RENDERERS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "labels show": _show,
    "labels prompt": _prompt,
    "labels export": _export,
    "labels import": _import,
    "labels judge": _judge,
}

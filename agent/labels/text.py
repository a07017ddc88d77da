"""The text of a `labels` verb's result. What a model wrote is shown with its control characters escaped."""

from collections.abc import Mapping
from datetime import UTC, datetime
from textwrap import indent
from typing import Any

from preceptor.ground.errors import visible
from preceptor.teacher.call import FALLBACK, OK

_SHOWN_CHARACTERS = 600  # of a reply
_CAPTION = (
    "Accuracy: scenes whose single most probable option is that of the task's script, with 95% Wilson intervals; "
    "abstentions are wrong. ECE over 15 bins; Brier summed over options. Position bias: total variation of the "
    "probability by place on the menu against uniform. Order: scenes whose best option changes with the order of the "
    "menu. p50, p95: time of a call, its share where several travel in one request."
)
_COLUMNS = (  # title, figure, its format, and what it is multiplied by
    ("n", "scenes", ",", 1),
    ("accuracy [95%]", "accuracy", ".3f", 1),
    ("ECE", "ece", ".3f", 1),
    ("Brier", "brier", ".3f", 1),
    ("position bias", "position_bias", ".3f", 1),
    ("order", "order_changes", ".1%", 1),
    ("valid", "valid", ".1%", 1),
    ("abstained", "abstained", ".1%", 1),
    ("p50 ms", "seconds_p50", ",.1f", 1000),
    ("p95 ms", "seconds_p95", ",.1f", 1000),
    ("tokens/scene", "tokens_per_scene", ",.0f", 1),
    ("calls", "calls", ",", 1),
    ("USD", "usd", ".4f", 1),
)
_LATEX = str.maketrans({**{c: f"\\{c}" for c in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\~{}"})


def render(verb: str, result: Mapping[str, Any]) -> str:
    """The text of a result."""
    renderers = {
        "show": _show,
        "prompt": _prompt,
        "export": _export,
        "import": _import,
        "judge": _judge,
        "batch": _batch,
    }
    return visible(renderers[verb.removeprefix("labels ")](result))


def _show(result: Mapping[str, Any]) -> str:
    """Calls, oldest first; what the prompts of one template have in common is printed once."""
    parts, said = [f"{result['store']}: {len(result['lines'])} calls"], dict[str, str]()
    parts += [_call(call, said) for call in result["lines"]]
    return "\n\n".join(parts)


def _call(call: Mapping[str, Any], said: dict[str, str]) -> str:
    date = datetime.fromtimestamp(call["created"], UTC).strftime("%Y-%m-%d %H:%M:%S")
    verdict = "answer" if call["status"] == OK else call["status"]
    lines = [
        f"#{call['row']}  {date}  {call['task']}  {verdict}",
        f"  {call['source']}, {call['method']}, sample {call['sample']}; model {call['model']}; "
        f"prompt {call['template'] or ''} {call['prompt'] or 'none'}; query {call['query'][:12]}",
        f"  {call['tokens']:,} tokens, {1000 * call['seconds']:,.1f} ms",
    ]
    lines += [_message(message, f"#{call['row']}", said) for message in call["messages"] or ()]
    if not call["messages"]:
        lines.append(_block(f"scene ({call['note']})", call["scene"]))
    lines.append(_block("reply", _short(call["reply"]) or "(empty)"))
    if call["probs"]:
        chances = [f"{option['probability']:.3f}  {option['letter']}) {option['option']}" for option in call["shown"]]
        lines.append(_block("read as", "\n".join(chances)))
    if call["why"]:
        lines.append(_block("fallback" if call["status"] == FALLBACK else "rejected", _short(call["why"])))
    return "\n".join(lines)


def _message(message: Mapping[str, str], where: str, said: dict[str, str]) -> str:
    """A message of a prompt; a system message in full only the first time."""
    role, content = message["role"], message["content"]
    if content in said:
        return f"  [{role}] as in {said[content]}"
    if role == "system":
        said[content] = where
    return _block(f"[{role}]", content)


def _block(title: str, text: str) -> str:
    return f"  {title}\n" + indent(text, "    ", lambda line: True)


def _short(text: str) -> str:
    """The beginning of what may be a megabyte."""
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]} ... ({len(text):,} characters)"


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
        lines += [_message(message, f"call {number}", said) for message in prompt["messages"]]
    asked = f"{len(prompts)} calls, about {result['tokens']:,} tokens ({result['counted']})"
    last = asked if prompts else "only one option is legal: no model would be asked"
    return "\n".join([*lines, "", last, f"the whole task: {result['all']}", "a dry run: nothing was sent"])


def _export(result: Mapping[str, Any]) -> str:
    return f"{result['file']}: {result['lines_written']:,} calls of {result['store']}"


def _import(result: Mapping[str, Any]) -> str:
    kept = f"; {result['kept']:,} other answers to the same questions stay out" if result["kept"] else ""
    return f"{result['store']}: {result['added']:,} calls added, {result['known']:,} known already{kept}"


def _batch(result: Mapping[str, Any]) -> str:
    """What was labelled and what it came to, a line for each server; of a dry run, what it would come to."""
    head = f"{result['task']}: {result['scenes']:,} scenes"
    if result.get("dry_run"):
        price = "" if result["usd"] is None else f", ${result['usd']:,.4f}"
        cost = f"about {result['calls']:,} calls, {result['tokens_in']:,} tokens of prompts and at most "
        cost += f"{result['tokens_out']:,} of replies{price}, by the first {result['priced']:,}, asked for letters"
        return f"{head}; {cost}\na dry run: nothing was sent"
    rate, rejected = result["calls"] / result["seconds"], result["rejected"]
    kinds = f" ({', '.join(f'{kind} {count:,}' for kind, count in rejected.items())})" if rejected else ""
    spent = f"{result['calls']:,} calls, {result['tokens']:,} tokens, {result['seconds']:,.1f} s"
    lines = [
        f"{head}; {result['store']} has {result['labels']:,} labels of {result['model']}",
        f"  now {spent}: {rate:,.1f} calls/s",
        f"  {sum(rejected.values()):,} replies were no answer{kinds}; {result['unanswered']:,} scenes stay without one",
    ]
    lines += [
        f"  {server['url']}: {server['calls']:,} calls, {server['tokens']:,} tokens, {server['failures']:,} failures, "
        f"{server['seconds']:,.1f} s busy: {server['calls_per_second']:,.1f} calls/s"
        for server in result["servers"]
    ]
    return "\n".join(lines)


def _judge(result: Mapping[str, Any]) -> str:
    """The table, without columns that are empty, and its caption."""
    rows, first = [_cells(row) for row in result["rows"]], result["rows"][0]
    head = [title for title in rows[0] if any(row[title] for row in rows)]
    body = [[row[title] for title in head] for row in rows]
    prompts = ", ".join(f"{row['template']} ({row['task']})" for row in result["rows"] if " " in row["template"])
    asked = f"; prompt {prompts}; {first['permutations']} menu orders per scene" if prompts else ""
    caption = f"Teacher {result['teacher']}, method {first['method']}{asked}; seed {first['seed']}. {_CAPTION}"
    if not result["latex"]:
        lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *body]
        return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", caption])
    top, *rest = [" & ".join(cell.translate(_LATEX) for cell in line) + r" \\" for line in (head, *body)]
    table = [r"\begin{tabular}{ll" + "r" * (len(head) - 2) + "}", r"\toprule", top, r"\midrule", *rest, r"\bottomrule"]
    end = [r"\end{tabular}", r"\caption{" + caption.translate(_LATEX) + "}", r"\end{table}"]
    return "\n".join([r"\begin{table}", *table, *end])


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Titles and texts of a row's columns; empty for what was not measured."""
    cells = {"model": row["model"], "task": row["task"]}
    for title, name, form, factor in _COLUMNS:
        cells[title] = "" if row.get(name) is None else format(factor * row[name], form)
    cells["accuracy [95%]"] += f" [{row['low']:.3f}, {row['high']:.3f}]"
    return cells

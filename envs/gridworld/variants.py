"""Tasks with other rooms and colours, `ColoredDoorKey:rooms=12-14,apart=red-green`: their names, and their rules.

A variant has the options, the texts and the encoding of its task, so that an agent of the one plays the other.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from preceptor.envs.gridworld.levels import COLORED, MAX_ROOM, MIN_ROOM, NUM_COLORS, SPECS, TWO_DOOR, LevelSpec
from preceptor.envs.gridworld.scenes import COLOURS
from preceptor.ground.errors import UserError, unknown_name

LARGEST_ROOM: Final = 25
PARAMETERS: Final = ("rooms", "colours", "pairs", "apart")
_STEPS_PER_CELL = 1.5  # as in the tasks themselves: 150 steps in rooms of up to 10 by 10


def spec_of(name: str) -> LevelSpec:
    """The rules of `Task` or `Task:parameter=value,...`; their name is that one, put in order.

    Parameters are `rooms=12-14`, the sides of rooms, walls included; `colours=red-green-blue`, of doors and keys; and,
    where there are keys of two colours, `pairs=red-green+blue-grey`, which colours meet, or `apart=`, which do not.

    Raises:
        UserError: An unknown parameter, or a value that it cannot have.
    """
    task, _, rest = name.partition(":")
    spec, example = SPECS[task], f"--task {task}:colours=red-green"
    said: dict[str, str] = {}
    for part in rest.split(",") if rest else ():
        parameter, _, value = part.strip().lower().partition("=")
        if parameter not in PARAMETERS:
            raise unknown_name(f"parameter of {task}", parameter, PARAMETERS, example)
        if parameter in said:
            raise UserError(f"{task}: {parameter} is given twice.", example)
        said[parameter] = value
    kept, every = [], frozenset((a, b) for a in range(NUM_COLORS) for b in range(NUM_COLORS))
    meet = frozenset((a, b) for a, b in every if a != b or spec.generator != COLORED)
    for parameter in (known for known in PARAMETERS if known in said):
        value = said[parameter]
        if parameter == "rooms":
            low, high = _sides(value, spec)
            if (low, high) != (MIN_ROOM, MAX_ROOM):
                kept.append(f"rooms={low}-{high}")
                variety = spec.variety._replace(smallest=low, largest=high)
                steps = max(spec.max_steps, int(_STEPS_PER_CELL * high * high))
                spec = replace(spec, width=high, height=high, max_steps=steps, variety=variety)
        elif parameter == "colours":
            chosen = _colours(value, task)
            kept.append(f"colours={_words(chosen)}")
            meet &= {(a, b) for a in chosen for b in chosen}
        else:
            chosen_pairs = _pairs(parameter, value, spec)
            kept.append(f"{parameter}={'+'.join(map(_words, chosen_pairs))}")
            both = {(a, b) for pair in chosen_pairs for a, b in (pair, pair[::-1])}
            meet = meet & both if parameter == "pairs" else meet - both
    if not meet:
        raise UserError(f"{name} leaves no colours for a door and another key.", f"--task {task}:colours=red-green")
    if not kept:
        return spec
    bits = sum(1 << NUM_COLORS * a + b for a, b in meet)
    return replace(spec, name=f"{task}:{','.join(kept)}", variety=spec.variety._replace(pairs=bits))


def full_name(name: str) -> str:
    """The name of a variant with its parameters in order. Raises `UserError` as `spec_of` does."""
    return spec_of(name).name


def _sides(value: str, spec: LevelSpec) -> tuple[int, int]:
    """The smallest and the largest side."""
    if spec.generator == TWO_DOOR:
        what = f"{spec.name} has one size of room, {spec.width} by {spec.height}."
        raise UserError(what, f"--task {spec.name}:colours=red-green")
    found = re.fullmatch(r"([0-9]{1,2})(?:-([0-9]{1,2}))?", value)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not MIN_ROOM <= low <= high <= LARGEST_ROOM:
        what = f"{spec.name}: rooms have sides of {MIN_ROOM} to {LARGEST_ROOM} cells, walls included, not {value!r}."
        raise UserError(what, f"--task {spec.name}:rooms=12-14")
    return low, high


def _colours(value: str, task: str) -> list[int]:
    """Colours by number, in order."""
    words = value.split("-")
    for word in words:
        if word not in COLOURS:
            raise unknown_name("colour", word, COLOURS, f"--task {task}:colours=red-green")
    return sorted({COLOURS.index(word) for word in words})


def _pairs(parameter: str, value: str, spec: LevelSpec) -> list[list[int]]:
    """Pairs of colours, in order."""
    example = f"--task ColoredDoorKey:{parameter}=red-green+blue-grey"
    if spec.generator != COLORED:
        raise UserError(f"{spec.name} has no two colours that could meet, so no {parameter}.", example)
    pairs = [_colours(words, spec.name) for words in value.split("+")]
    if any(len(pair) != 2 for pair in pairs):
        raise UserError(f"{spec.name}: {parameter} are of two colours each, not {value!r}.", example)
    return sorted({tuple(pair): pair for pair in pairs}.values())


def _words(colours: Iterable[int]) -> str:
    return "-".join(COLOURS[colour] for colour in colours)

"""Names of tasks with missions, their parameters, and the tasks.

Any registered level of BabyAI is a task; those whose rules the verifier does not know run as themselves, slowly and
without a teacher (`ItselfTask`). The parameters are `levels=`, how many there are for training (2,000), and of the
rooms of `rooms.py` what `rooms.Chosen` says: `OneRoom-Mix:distractors=0,side=12,words=held-out,pairs=new,clauses=3`.
"""

from dataclasses import fields
from typing import Any, Final

from preceptor.envs.gridworld.stock_tasks import POOL_LEVELS, full_id, played_or_itself
from preceptor.envs.missions import rooms
from preceptor.envs.missions.tasks import MissionTask
from preceptor.envs.task import Task
from preceptor.ground.errors import UserError, unknown_name

_RANGES: Final = {"levels": (1, 1_000_000), "distractors": (0, 100), "side": (6, 25)}
_VALUES: Final = {
    "words": rooms.WORDS,
    "pairs": rooms.PAIRS,
    "kind": tuple(kind.lower() for kind in rooms.ROOMS),
    "clauses": tuple(count for count in rooms.COUNTS if count),
}
_USUAL: Final = {"levels": POOL_LEVELS["train"]} | {field.name: field.default for field in fields(rooms.Chosen)}
_OF_MIX: Final = ("kind", "clauses")
_ROOM = "OneRoom-"


def _known(plain: str) -> list[str]:
    """The parameters of a task, in order."""
    if not plain.startswith(_ROOM):
        return ["levels"]
    return [name for name in _USUAL if plain == _ROOM + rooms.MIX or name not in _OF_MIX]


def _value(plain: str, parameter: str, value: str) -> Any:
    """What was given, a whole number or one of some words."""
    if parameter in _VALUES:
        if value not in _VALUES[parameter]:
            what = f"{plain}: {parameter} is one of {', '.join(_VALUES[parameter])}, not {value!r}."
            raise UserError(what, f"--task {plain}:{parameter}={_VALUES[parameter][-1]}")
        return value
    low, high = _RANGES[parameter]
    if not (value.isascii() and value.isdecimal() and low <= int(value[:9]) <= high):
        what = f"{plain}: {parameter} is a whole number from {low} to {high}, not {value!r}."
        raise UserError(what, f"--task {plain}:{parameter}={low}")
    return int(value)


def _parameters(name: str) -> tuple[str, dict[str, Any]]:
    """A name's parts. Raises `UserError` for parameters that there are not."""
    plain, _, rest = name.partition(":")
    known, said = _known(plain), dict[str, Any]()
    for part in rest.split(",") if rest else ():
        parameter, _, value = part.strip().lower().partition("=")
        if parameter not in known:
            raise unknown_name(f"parameter of {plain}", parameter, tuple(known), f"--task {plain}:levels=10000")
        if parameter in said:
            raise UserError(f"{plain}: {parameter} is given twice.", f"--task {plain}:{parameter}={value}")
        said[parameter] = _value(plain, parameter, value)
    if all(parameter in said for parameter in _OF_MIX):
        what = f"{name}: a kind says how many clauses there are; give {' or '.join(_OF_MIX)}, not both."
        raise UserError(what, f"--task {plain}:clauses={said['clauses']}")
    return plain, {parameter: said[parameter] for parameter in known if parameter in said}


def full_name(name: str) -> str:
    """`Task:parameter=value,...` in order, without what is so anyway. Raises `UserError` for unknown parameters."""
    plain, said = _parameters(name)
    other = [f"{parameter}={value}" for parameter, value in said.items() if value != _USUAL[parameter]]
    return f"{plain}:{','.join(other)}" if other else plain


def make_task(name: str) -> Task:
    """The task of a level of BabyAI, or of `rooms.py`. Raises `UserError` where there is none."""
    plain, said = _parameters(name) if "=" in name else (name, {})
    count, side = said.pop("levels", POOL_LEVELS["train"]), None
    if plain.startswith(_ROOM):
        room, chosen, side = plain.removeprefix(_ROOM), rooms.Chosen(**said), rooms.Chosen.side
        if (objects := chosen.objects(room)) > chosen.space:
            most = chosen.distractors + chosen.space - objects
            what = f"{name}: in a room of side {chosen.side} there is space for at most {most} other objects."
            raise UserError(what, f"--task {full_name(f'{plain}:distractors={most},side={chosen.side}')}")
        env_id = rooms.registered(room, chosen)
    else:
        env_id = full_id(plain)
    return played_or_itself(env_id, lambda: MissionTask(name, env_id, count, side))

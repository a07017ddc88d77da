"""Names of tasks with missions, their parameters, and the tasks.

Any registered level of BabyAI is a task; those whose rules the verifier does not know run as themselves, slowly and
without a teacher (`ItselfTask`). The parameters are `levels=`, how many there are for training (2,000), and of the
rooms of `rooms.py` also `distractors=` and `side=`: `OneRoom-GoTo:distractors=0,side=12`.
"""

from typing import Final

from preceptor.envs.gridworld.stock_tasks import POOL_LEVELS, full_id, played_or_itself
from preceptor.envs.missions import rooms
from preceptor.envs.missions.tasks import MissionTask
from preceptor.envs.task import Task
from preceptor.ground.errors import UserError, unknown_name

_RANGES: Final = {"levels": (1, 1_000_000), "distractors": (0, 100), "side": (6, 25)}
_ROOM = "OneRoom-"


def _parameters(name: str) -> tuple[str, dict[str, int]]:
    """A name's parts. Raises `UserError` for parameters that there are not."""
    plain, _, rest = name.partition(":")
    known = _RANGES if plain.startswith(_ROOM) else {"levels": _RANGES["levels"]}
    said: dict[str, int] = {}
    for part in rest.split(",") if rest else ():
        parameter, _, value = part.strip().lower().partition("=")
        if parameter not in known:
            raise unknown_name(f"parameter of {plain}", parameter, tuple(known), f"--task {plain}:levels=10000")
        low, high = known[parameter]
        if parameter in said or not value.isdecimal() or not low <= int(value) <= high:
            what = f"{plain}: {parameter} is a whole number from {low} to {high}, given once, not {value!r}."
            raise UserError(what, f"--task {plain}:{parameter}={low}")
        said[parameter] = int(value)
    return plain, {parameter: said[parameter] for parameter in known if parameter in said}


def full_name(name: str) -> str:
    """`Task:parameter=value,...` in order, without what is so anyway. Raises `UserError` for unknown parameters."""
    plain, said = _parameters(name)
    usual = {"levels": POOL_LEVELS["train"], "distractors": rooms.DISTRACTORS, "side": rooms.SIDE}
    other = [f"{parameter}={value}" for parameter, value in said.items() if value != usual[parameter]]
    return f"{plain}:{','.join(other)}" if other else plain


def make_task(name: str) -> Task:
    """The task of a level of BabyAI, or of `rooms.py`. Raises `UserError` where there is none."""
    plain, said = _parameters(name) if "=" in name else (name, {})
    count, env_id, side = said.get("levels", POOL_LEVELS["train"]), full_id(plain), None
    if plain.startswith(_ROOM):
        kind, side = plain.removeprefix(_ROOM), rooms.SIDE
        others, chosen = said.get("distractors", rooms.DISTRACTORS), said.get("side", side)
        if others > (most := (chosen - 2) ** 2 // 4):
            what = f"{name}: in a room of side {chosen} there is space for at most {most} other objects."
            raise UserError(what, f"--task {plain}:distractors={most},side={chosen}")
        env_id = rooms.registered(kind, others, chosen)
    return played_or_itself(env_id, lambda: MissionTask(name, env_id, count, side))

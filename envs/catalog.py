"""Task names -> tasks: one table of all families, a listing, and a suggestion for a misspelt name. Cheap to import."""

from functools import cache
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from preceptor.ground.errors import UserError, unknown_name

if TYPE_CHECKING:
    import gymnasium as gym
    from gymnasium.vector import AutoresetMode

    from preceptor.envs.task import Task


class Family(NamedTuple):
    """Tasks that are made in the same way.

    Attributes:
        factory: `module:function` of a task's name that makes the task.
        tasks: Names, and what there is to do.
        entry_point: What makes a task's single environment, of its name as `task`, for Gymnasium's registry; empty
            where Gymnasium knows it already.
        vector_entry_point: Likewise what makes its batched environments.
        full_name: `module:function` that puts the name of a task with parameters, `Task:parameters`, in order, and
            raises `UserError` for parameters that there are not; empty where tasks take none.
    """

    factory: str
    tasks: dict[str, str]
    entry_point: str = ""
    vector_entry_point: str = "preceptor.envs.catalog:make_vec_env"
    full_name: str = ""


FAMILIES: Final = {
    "grid": Family(
        "preceptor.envs.gridworld.tasks:make_task",
        {
            "SimpleDoorKey": "a room, a locked door, its key",
            "LavaDoorKey": "SimpleDoorKey and one cell of lava",
            "ColoredDoorKey": "the door's key and a key of another colour",
            "TwoDoor": "a room of 20x20, two doors of one colour, one key",
            "KeyInBox": "the key is in a box, which must be opened",
            "RandomBoxKey": "the key is on the floor or in the box",
            "DynamicDoorKey": "the door moves soon after the key is taken",
        },
        "preceptor.envs.gridworld.single:GridTaskEnv",
        full_name="preceptor.envs.gridworld.variants:full_name",
    ),
    "minigrid": Family(
        "preceptor.envs.gridworld.stock_tasks:make_task",
        {
            "DoorKey-5x5": "a key, a locked door, the goal behind it",
            "DoorKey-6x6": "a key, a locked door, the goal behind it",
            "DoorKey-8x8": "a key, a locked door, the goal behind it",
            "UnlockPickup": "pick up the box behind a locked door",
            "BlockedUnlockPickup": "the same, and a ball blocks the door",
            "KeyCorridorS3R1": "pick up the ball behind a locked door; the key is in another room",
            "KeyCorridorS4R3": "the same with more and larger rooms",
            "LavaCrossingS9N1": "reach the goal through a gap in the lava",
        },
    ),
    "babyai": Family(
        "preceptor.envs.missions.names:make_task",
        {
            "BabyAI-GoToLocal": "go to an object in one room",
            "BabyAI-GoTo": "go to an object in nine rooms",
            "BabyAI-Pickup": "pick up an object in nine rooms",
            "BabyAI-PickupLoc": "pick up an object that is told by its place",
            "BabyAI-Open": "open a door in nine rooms",
            "BabyAI-Unlock": "open a locked door; its key is somewhere",
            "BabyAI-PutNextLocal": "put an object next to another in one room",
            "BabyAI-GoToSeq": "go to objects in an order",
            "BabyAI-Synth": "any one thing in nine rooms",
            "BabyAI-SynthLoc": "the same with objects that are told by their places",
            "BabyAI-SynthSeq": "several things in an order",
            "BabyAI-MiniBossLevel": "several things in an order in four small rooms",
            "BabyAI-BossLevel": "all of it",
            "OneRoom-GoTo": "go to an object (BALROG's five kinds, from here on)",
            "OneRoom-Pickup": "pick up an object",
            "OneRoom-Open": "open a door",
            "OneRoom-PutNext": "put an object next to another",
            "OneRoom-PickupGoTo": "pick up an object, then go to another",
            "OneRoom-Mix": "any of these five; or several, said or named as never before",
        },
        full_name="preceptor.envs.missions.names:full_name",
    ),
    "maze": Family(
        "preceptor.envs.mujoco.tasks:make_task",
        {
            "AntMaze": "an ant in a U-shaped corridor (HIRO)",
            "AntPush": "an ant, a block in the way to be pushed aside, which is not observed (HIRO)",
            "AntFall": "an ant, a block to be pushed into a chasm as a bridge, which is not observed (HIRO)",
            "AntPushRobust": "AntPush whose block is observed and never jams by friction",
            "AntFallRobust": "AntFall whose block is observed and falls whenever it is over the chasm",
            "PointReach": "a point in an open room",
            "PointUMaze": "AntMaze at half the size for a point",
            "PointPush": "AntPushRobust at half the size for a point",
            "PointPushOriginal": "PointPush with the original's block",
            "PointFall": "AntFallRobust at half the size for a point",
            "PointFallOriginal": "PointFall with the original's block",
        },
        "preceptor.envs.mujoco.tasks:make_single_env",
        "preceptor.envs.mujoco.tasks:make_vec_env",
    ),
    "rescue": Family(
        "preceptor.envs.rescue.tasks:RescueTask",
        {
            "RescueWorld-n2": "visit 2 targets in their order (HALO)",
            "RescueWorld-n3": "visit 3 targets in their order (HALO)",
            "RescueWorld-n6": "visit 6 targets in their order, among danger and rubble (HALO)",
            "RescueWorld-n2-random": "the same in an order that each episode draws anew",
            "RescueWorld-n3-random": "the same in an order that each episode draws anew",
            "RescueWorld-n6-random": "the same in an order that each episode draws anew",
        },
        "preceptor.envs.catalog:make_single_env",
    ),
    "fetch": Family(
        "preceptor.envs.fetch.tasks:make_task",
        {"FetchPickAndPlace": "a robot arm carries a block to its goal"},
        "preceptor.envs.catalog:make_single_env",
    ),
    "wholebody": Family(
        "preceptor.envs.wholebody.tasks:make_task",
        {
            "WholeBody": "a mobile manipulator drives, reaches, grasps and lifts an object",
            "WholeBodyTwin": "a mobile manipulator takes an object; kinematics alone",
        },
        "preceptor.envs.catalog:make_single_env",
    ),
    "kitchen": Family(
        "preceptor.envs.kitchen.tasks:make_task",
        {"KitchenKinematic": "a gripper does four of seven things in an order that no demonstration shows (HELIOS)"},
        "preceptor.envs.catalog:make_single_env",
        full_name="preceptor.envs.kitchen.tasks:full_name",
    ),
    "franka": Family(
        "preceptor.envs.kitchen.franka_tasks:make_task",
        {"Kitchen": "a robot arm does four of seven things in a kitchen: FrankaKitchen-v1 (HELIOS)"},
        "preceptor.envs.catalog:make_single_env",
        full_name="preceptor.envs.kitchen.franka_tasks:full_name",
    ),
    "gymnasium": Family(
        "preceptor.envs.gym_tasks:GymTask",
        {
            "Ant-v5": "walk forward on four legs",
            "HalfCheetah-v5": "run forward on two legs in the plane",
            "Hopper-v5": "hop forward on one leg",
            "Humanoid-v5": "walk forward on two legs",
            "HumanoidStandup-v5": "stand up",
            "InvertedPendulum-v5": "balance a pole on a cart",
            "InvertedDoublePendulum-v5": "balance two poles on a cart",
            "Pusher-v5": "push a cylinder to its goal",
            "Reacher-v5": "reach a place with an arm of two links",
            "Swimmer-v5": "swim forward",
            "Walker2d-v5": "walk forward on two legs in the plane",
            "MountainCarContinuous-v0": "drive a weak car up a hill",
            "Pendulum-v1": "swing a pendulum up and keep it there",
        },
    ),
}
TASKS, STOCK_TASKS, MISSION_TASKS, MAZE_TASKS, RESCUE_TASKS, FETCH_TASKS = (
    tuple(FAMILIES[family].tasks) for family in ("grid", "minigrid", "babyai", "maze", "rescue", "fetch")
)
WHOLE_BODY_TASKS, KITCHEN_TASKS, FRANKA_TASKS, GYM_TASKS = (
    tuple(FAMILIES[family].tasks) for family in ("wholebody", "kitchen", "franka", "gymnasium")
)
# The built-in language model is trained on these, so a name added here is a model to train. Of mazes one for each map:
# the others on it, whatever moves in them, read alike.
TAUGHT: Final = (*TASKS, "PointReach", "PointUMaze", "PointPush", "PointFall")


def listing() -> list[tuple[str, str, str]]:
    """(family, name, what there is to do) of each task, those of installed packages last."""
    from preceptor.envs.own_tasks import installed

    rows = [(family, name, words) for family, row in FAMILIES.items() for name, words in row.tasks.items()]
    return rows + [("installed", name, points[0].value) for name, points in installed().items()]


def get_task(name: str, flaw: str | None = None) -> "Task":
    """The task of a name; the same object for the same arguments.

    Args:
        name: One of `listing`, where the case does not matter, with parameters after `:` if its family takes some
            (`gridworld/variants.py`, `kitchen/orders.py`); `module:Name` of a task of one's own (`own_tasks.py`);
            or a Gymnasium id: of any MiniGrid environment, or of any whose observations and actions are vectors
            (`gym_tasks.py`); as `module:id` the module that registers it is imported first (see `stock_tasks.py`).
        flaw: None, or a flaw of its teacher: `lava` for LavaDoorKey, `colours` for ColoredDoorKey.

    Raises:
        UserError: An unknown name or flaw, or a task or environment that cannot be used.
    """
    from preceptor.envs.own_tasks import installed, installed_task, is_there, named_task

    ours = {task.lower(): task for family in FAMILIES.values() for task in family.tasks}
    exact, brought = ours.get(name.lower()), installed()
    if ":" in name and (plain := ours.get(name.partition(":")[0].lower())):
        exact = _variant(plain, name.partition(":")[2])
    if name in brought or exact in brought:
        own = installed_task(exact or name, brought[exact or name], built_in=exact is not None)
    elif exact is not None:
        return _make(exact, flaw)
    else:
        import gymnasium as gym
        import minigrid  # noqa: F401  # registers its environments

        own_place = ":" in name and is_there(name)
        if not own_place and name.rpartition(":")[2] in gym.registry:
            return _make(name, flaw)
        if ":" not in name:
            known = [task for _, task, _ in listing()]
            raise unknown_name("task", name, known, "python main.py train --task SimpleDoorKey")
        own = named_task(name)
    if own.name.lower() in ours:
        what = f"{name} is called {own.name}, as a task of preceptor is."
        raise UserError(what, f'name = "My{own.name}"  # in its class')
    if flaw is not None:
        return _make(own.name, flaw)  # which says that it has none
    return own


def _variant(plain: str, parameters: str) -> str:
    """The name, in order, of one of our tasks with parameters."""
    full_name = next(family.full_name for family in FAMILIES.values() if plain in family.tasks)
    if not full_name:
        raise UserError(f"{plain} takes no parameters, and {parameters!r} was given.", f"--task {plain}")
    named: str = resolve_name(full_name)(f"{plain}:{parameters}")
    return named


@cache
def _make(name: str, flaw: str | None) -> "Task":
    if flaw is not None:
        from preceptor.envs.gridworld.flaws import flawed_task

        return flawed_task(name, flaw)
    family = next((family for family in FAMILIES.values() if name.partition(":")[0] in family.tasks), None)
    if family is None:
        from preceptor.envs.gym_tasks import family_of

        family = FAMILIES[family_of(name)]
    made: Task = resolve_name(family.factory)(name)
    made.source = name
    return made


def make_single_env(task: str, split: str = "train", render_mode: str | None = None) -> "gym.Env[Any, Any]":
    """A task's environment as agents play it, whose observations and actions are those of its demonstrations.

    The datasets that `demos` leaves name this function as what makes their environment.
    """
    from preceptor.envs.task import defines
    from preceptor.envs.vector import SingleEnv

    made = get_task(task)
    if not defines(made, "simulator"):
        return made.make_env(split, render_mode)
    batched: Any = made.make_vec(1, split=split, render_mode=render_mode)  # which has the levels of the split
    return SingleEnv(batched.simulator, split, render_mode)


def make_vec_env(
    task: str, num_envs: int = 1, autoreset_mode: "AutoresetMode | str" = "NextStep", **how: Any
) -> "gym.vector.VectorEnv[Any, Any, Any]":
    """A task's batched environments, for Gymnasium's `make_vec`: as its own do, they begin anew in the next step."""
    return get_task(task).make_vec(num_envs, autoreset_mode=autoreset_mode, **how)


def register_all() -> None:
    """Register the environments with Gymnasium as `Preceptor/<Task>-v0`; harmless if done before.

    Importing the package does this once Gymnasium is imported, be it before or after.
    """
    from gymnasium.envs.registration import register, registry

    for family in FAMILIES.values():
        for name in family.tasks if family.entry_point else ():
            if f"Preceptor/{name}-v0" not in registry:
                places: Any = {"entry_point": family.entry_point, "vector_entry_point": family.vector_entry_point}
                register(f"Preceptor/{name}-v0", kwargs={"task": name}, **places)

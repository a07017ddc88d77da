"""The demonstrations of a run: recorded once, kept with it, and split into those to learn from and those held out."""

from agent.data.recording import Recording
from agent.demonstrating import record
from agent.runs.run import Run
from envs.task import Task
from ground.errors import UserError

_HELD_OUT = 0.25  # demonstrations that are held out, for each to learn from
DEMONSTRATIONS = "demonstrations"  # folder of a run


def demonstrations_of(demos: str, task: Task, seed: int, run: Run) -> tuple[Recording, Recording]:
    """The demonstrations that a run began with, or new ones, or a Minari dataset.

    Args:
        demos: How many to record of the task's expert to learn from, or a Minari dataset by its id.
        task: What is demonstrated.
        seed: Draws levels, ways and mistakes.
        run: Keeps them.

    Returns:
        Those to learn from, and those that are held out.

    Raises:
        UserError: There are too few, or they are not of this task.
    """
    folder = run.path / DEMONSTRATIONS
    if folder.exists():
        recording = Recording.load(folder)
    else:
        if demos.isdigit():
            wanted = int(demos)
            if wanted < 1:
                raise UserError("There are no demonstrations to learn from.", "record some: --demos 100")
            recording = record(task, wanted + round(wanted * _HELD_OUT), seed)
        else:
            from agent.data.minari import load_minari

            recording = load_minari(demos, task)
        recording.save(folder)
    kept = len(recording) - int(_HELD_OUT / (1 + _HELD_OUT) * len(recording))
    return recording[:kept], recording[kept:]

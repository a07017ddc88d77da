"""Scenes of a task as they are met in play: a stream that is the same whenever it is drawn, each scene in it once."""

from collections.abc import Iterator

import numpy as np

from preceptor.envs.task import Scene, Task, defines, lacking
from preceptor.ground.errors import UserError

_PLAYED = 256  # environments side by side
_ERRS = 0.3  # share of random actions of `script`, which meets little of a task where it does everything right
_IN_VAIN = 1_000  # steps of all environments without a new scene, after which the task is taken to have no more


def met(task: Task, player: str, seed: int) -> Iterator[list[Scene]]:
    """Distinct scenes with a choice, those of a step together, until no new ones are met; it keeps two numbers of each.

    Args:
        task: What is played, in levels for training.
        player: `random` primitive actions, or `script`: the task's expert, which errs now and then.
        seed: Of levels and actions.

    Raises:
        UserError: There is no such expert, or there is no scene with a choice.
    """
    for member in ("script", "skill") if player == "script" else ():
        if not defines(task, member):
            raise lacking(task, member)
    levels, acting, erring = np.random.SeedSequence(seed).generate_state(3).tolist()
    env, rng = task.make_vec(_PLAYED, seed=levels), np.random.default_rng(erring)
    env.action_space.seed(acting)
    obs, _ = env.reset()
    codes, facts, vain = set[int](), set[int](), 0
    while vain < _IN_VAIN:
        distinct, first = np.unique(task.fact_codes(obs), return_index=True)
        # In the order in which they are met; what `describe` is asked for is the slow part.
        fresh = sorted(i for code, i in zip(distinct.tolist(), first.tolist(), strict=True) if code not in codes)
        codes.update(distinct.tolist())
        scenes = [scene for scene in task.describe(obs[fresh]) if len(scene.legal) > 1] if fresh else []
        hashed = {hash(scene.facts): scene for scene in scenes}
        new = [scene for code, scene in hashed.items() if code not in facts]
        facts.update(hashed)
        vain = 0 if new else vain + 1
        if new:
            yield new
        acts = env.action_space.sample()
        if player == "script":
            options = np.array([task.script(scene) for scene in task.describe(obs)])
            right = (rng.random(_PLAYED) >= _ERRS).reshape(-1, *[1] * (acts.ndim - 1))
            acts = np.where(right, task.skill(obs, options), acts)
        obs = env.step(acts)[0]
    env.close()
    if not facts:
        raise UserError(f"{task.name} has no scene in which there is a choice.", "another --task")

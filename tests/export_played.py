"""Plays an exported agent where torch cannot be imported: python -m tests.export_played FOLDER LEVELS greedy|SEED."""

import json
import sys
from typing import Any

import numpy as np


class NoTorch:
    """An import hook under which there is no torch."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("there is no torch here", name="torch")


def played(agent: Any, levels: int) -> dict[str, Any]:
    """Actions, options and returns of the first episode on each of some held-out levels, played side by side."""
    env = agent.task.make_vec(levels, split="eval")
    obs, _ = env.reset(options={"level_seeds": 1_000_000 + np.arange(levels)})
    going, begun = np.ones(levels, np.bool_), np.zeros(levels, np.bool_)
    actions, options, returns = [], [], np.zeros(levels)
    while going.any():
        action = agent.act(obs, begun if actions else None)
        options.append([] if agent.option is None else list(agent.option))
        actions.append(action.tolist())
        obs, reward, terminated, truncated, _ = env.step(action)
        returns += reward * going
        begun = terminated | truncated
        going &= ~begun
    return {"actions": actions, "options": options, "returns": returns.tolist()}


if __name__ == "__main__":
    sys.meta_path.insert(0, NoTorch())
    import preceptor.runtime

    folder, count, style = sys.argv[1:]
    loaded = preceptor.runtime.load(folder, greedy=style == "greedy", seed=None if style == "greedy" else int(style))
    sys.stdout.write(json.dumps(played(loaded, int(count)) | {"torch": "torch" in sys.modules}))

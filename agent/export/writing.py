"""The `export` verb: an agent as a folder that is played elsewhere, checked against its run before it is there."""

import platform
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from preceptor.agent.computed import Computed, no_computation
from preceptor.agent.config import from_plain
from preceptor.agent.evaluate import load_method
from preceptor.agent.export.card import model_card
from preceptor.agent.export.parity import check_parity
from preceptor.agent.export.playing import (
    KIND,
    KINDS,
    MANIFEST,
    ONNXRUNTIME,
    PLAIN,
    SCHEMA,
    Told,
    feed,
    is_export,
    player_in,
)
from preceptor.agent.export.whole import player_of, write_whole
from preceptor.agent.flags import ExportConfig
from preceptor.agent.levels import Observations, Player
from preceptor.agent.runs.run import Run
from preceptor.controller.encoders import encoder_of, identity_of
from preceptor.envs.catalog import get_task
from preceptor.envs.task import Task
from preceptor.ground.atomic import publish_folder, write_json
from preceptor.ground.device import use_device
from preceptor.ground.errors import UserError
from preceptor.ground.sealed import file_digest

CARD = "card.md"
_OPSET = 18
_EXAMPLES = 3  # environments of which networks are traced


def export(config: ExportConfig) -> dict[str, Any]:
    """Write a run's student as an export; the result line.

    Raises:
        UserError: There is no such run; its levels cannot be exported in this format; the export does not compute what
            the run does; or a package is missing.
    """
    torch.set_num_threads(1)
    use_device("cpu")
    run = Run.find(config.logdir, config.method, config.task, config.run)
    trained = from_plain(run.config)
    task = get_task(trained.task)
    method = load_method(run, task)
    folder = Path(config.to) if config.to else run.path / "export" / config.format
    if folder.exists() and not is_export(folder):
        raise UserError(f"{folder} exists, and is no export that could be replaced.", "--to another folder")
    with publish_folder(folder) as draft:
        said = _described(run, task, config.format)
        if config.format == "torch":
            write_whole(run, method, draft)
            exported = player_of(draft, said, task)
        else:
            said |= _networks(task, method.player, draft)
            exported = player_in(draft, said)
        said["parity"] = check_parity(task, method.player, exported, config.observations)
        (draft / CARD).write_text(model_card(run, task, said))
        files = sorted(path for path in draft.rglob("*") if path.is_file())
        said["files"] = {str(path.relative_to(draft)): file_digest(path) for path in files}
        write_json(draft / MANIFEST, said)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    shown = {name: said["parity"][name] for name in ("observations", "differed", "largest_difference")}
    facts = {"export": str(folder), "task": task.name, "method": trained.method, "format": config.format}
    return {**facts, **shown, "kilobytes": round(size / 1000), "card": str(folder / CARD)}


def _described(run: Run, task: Task, runtime: str) -> dict[str, Any]:
    """What the manifest says of any export."""
    is_map = len(task.observation_shape) == 3
    return {
        "format": KIND,
        "schema": SCHEMA,
        "runtime": runtime,
        "task": task.source,
        "identity": identity_of(task),
        "observation": {"shape": list(task.observation_shape), "dtype": "uint8" if is_map else "float32"},
        "actions": {"count": task.num_actions, "continuous": task.continuous},
        "options": [{"id": o.id, "words": o.words, "timeout": o.timeout} for o in task.options],
        "run": {"name": run.name, "method": run.config["method"], "step": run.last_step},
        "made": {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in ("torch", "numpy")},
        },
    }


def _networks(task: Task, player: Player, draft: Path) -> dict[str, Any]:
    """Write the networks of both levels; what the manifest says of them, the clock and the player."""
    env = task.make_vec(_EXAMPLES, split="eval")
    obs, info = env.reset()
    env.close()
    observed = Observations(task, encoder_of(task), obs, info["level_seed"])
    option = np.zeros(_EXAMPLES, np.int64)
    told: Told = observed, option, np.zeros((_EXAMPLES, player.transition.size), np.float32)
    return {
        "timeouts": player.timeouts.tolist(),
        "transition": {"kind": player.transition.kind, "numbers": player.transition.numbers},
        "high": _level(player.high, "high", told, draft),
        "low": _level(player.low, "low", told, draft),
    }


def _level(level: Any, which: str, told: Told, draft: Path) -> dict[str, Any]:
    """What the manifest says of a level; its network, if any, is written. Raises `UserError` if it cannot be."""
    plain = type(level).__name__
    if PLAIN.get(plain) is type(level):
        return {"plain": plain}
    if not hasattr(level, f"{which}_computed"):
        what = f"The {which} level of this agent, {plain}, is no network alone, and ONNX cannot hold it."
        raise UserError(what, "--format torch  # which holds any agent")
    computed: Computed = getattr(level, f"{which}_computed")()
    assert computed.kind.__name__ in KINDS
    _write(computed, feed(computed.inputs, told), draft / f"{which}.onnx")
    said = {"file": f"{which}.onnx", "inputs": computed.inputs, "kind": computed.kind.__name__}
    return said | {"settings": dict(computed.settings), "ends": computed.ends}


class _Traced(nn.Module):
    """A computation as a module whose weights are those of its network."""

    def __init__(self, computed: Computed) -> None:
        super().__init__()
        self.network, self._outputs = computed.network, computed.outputs

    def forward(self, *tensors: Tensor) -> Sequence[Tensor]:
        """As `Computed.outputs`."""
        return self._outputs(*tensors)


def _log_add_exp(graph: Any, first: Any, second: Any) -> Any:
    """log(exp(a) + exp(b)) in ONNX, which the exporter does not know."""
    most = graph.op("Max", first, second)
    parts = [graph.op("Exp", graph.op("Sub", part, most)) for part in (first, second)]
    return graph.op("Add", most, graph.op("Log", graph.op("Add", *parts)))


def _write(computed: Computed, inputs: dict[str, Any], path: Path) -> None:
    try:
        import onnx  # noqa: F401  # torch writes with it
    except ImportError as error:
        packages = f"pip install onnx onnxruntime=={ONNXRUNTIME}  # or: pip install 'preceptor[export]'"
        raise UserError(f"The package onnx, which writes exports, cannot be loaded: {error}.", packages) from error
    tensors = tuple(torch.as_tensor(value) for value in inputs.values())
    torch.onnx.register_custom_op_symbolic("aten::logaddexp", _log_add_exp, _OPSET)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # kernels of torch's own, which ONNX does not know
    with warnings.catch_warnings(), torch.no_grad():
        # It warns that it is not the newer one, which takes a second per network and three packages more, and that what
        # is constant here might not be: parity is checked with other numbers of environments.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                _Traced(computed),
                tensors,
                path,
                input_names=list(inputs),
                dynamic_axes={name: {0: "environments"} for name in inputs},
                opset_version=_OPSET,
                dynamo=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise no_computation(str(error).partition("\n")[0].rstrip(".")) from error
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)

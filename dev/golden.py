"""The golden net of a change that must change nothing: digests of what short runs of every method leave behind.

    python -m dev.golden record     # on the commit before; writes dev/golden.json
    python -m dev.golden check      # on the commit after; names each run that differs, and in what

A digest covers the weights and the optimiser's state, whatever they are called, and the metrics without the clock. It
holds for one processor and one build of torch, which the file names: elsewhere, record the commit before first.
"""

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from preceptor.agent.runs.metrics import read_metrics

HERE = Path(__file__).parent
FILE = HERE / "golden.json"
GRID, POINT = "--task SimpleDoorKey --eval-episodes 20", "--task PointReach --eval-episodes 10"
HALO = "--method halo --task RescueWorld-n2 --preset tiny --eval-episodes 20 --demos 20 --budget 40"
HIRO = f"--method hiro {POINT} --steps 6000"
HVD = "--method hvd --task WholeBodyTwin --preset tiny --steps 100 --demos mixed:20+2 --eval-episodes 10"
HELIOS = "--method helios --task KitchenKinematic --preset tiny --steps 240 --demos 20 --eval-episodes 10"
# Long enough that every network is updated twenty times.
RUNS = {
    "dagger": f"--method dagger {GRID} --steps 6000 --num-envs 32",
    "ihac": f"--method ihac {GRID} --preset tiny",
    "ihac-noise": "--method ihac --task LavaDoorKey --limit lava --label-noise 0.2 --preset tiny --eval-episodes 20",
    "ihac-controller": f"--method ihac {GRID} --preset tiny --controller dagger",
    "flat": f"--method ihac --student flat {GRID} --preset tiny",
    "ppo": f"--method ppo {GRID} --steps 20000",
    "ppo-vectors": f"--method ppo {POINT} --steps 6000",
    "sac": f"--method sac {POINT} --steps 4000",
    "sac-extended": f"--method sac --exploration extended {POINT} --steps 3000",
    "td3": f"--method td3 {POINT} --steps 4000",
    "hiro": HIRO,
    "hiro-td3": f"{HIRO} --low-learner td3 --high-learner td3",
    "hiro-ppo": f"{HIRO} --low-learner ppo",
    "hiro-planned": f"{HIRO} --high-level controller --teacher scripted",
    "hiro-prior": f"{HIRO} --prior controller --value-filter --teacher scripted",
    "hiro-options": f"--method hiro {GRID} --prior controller --teacher scripted --steps 24000",
    "halo-tabular": HALO,
    "halo-neural": f"{HALO} --policies neural --label-noise 0.1",
    "bc": f"--method bc {POINT} --preset tiny --steps 300",
    "iql": f"--method iql {POINT} --preset tiny --steps 300 --chunk 2",
    "hvd": f"{HVD} --head flow",
    "hvd-online": f"{HVD} --online 800 --online-warmup 40",
    "helios": f"{HELIOS} --online 1600 --warmup 20",
}
# Parts of a checkpoint that are not learnt: environments, stored steps, labels.
NOT_LEARNT = {"hierarchy", "store", "labeller", "teacher", "columns", "final_obs", "states"}
CLOCKED = ("time/", "teacher/seconds", "teacher/latency")


def digest(run: Path) -> dict[str, Any]:
    """Hashes of the weights, of the metrics, and the student's scores, of a finished run."""
    last = (run / "last").read_text().strip()
    tensors = load_file(run / last / "state.safetensors")
    hashes = sorted(
        hashlib.sha256(str(value.dtype).encode() + value.contiguous().numpy().tobytes()).hexdigest()
        for name, value in tensors.items()
        if value.is_floating_point() and not NOT_LEARNT & set(name.split("/"))
    )
    rows = read_metrics(run / "metrics.jsonl")
    kept = [{tag: value for tag, value in row.items() if not tag.startswith(CLOCKED)} for row in rows]
    student = json.loads((run / "result.json").read_text())["student"]
    return {
        "tensors": len(hashes),
        "weights": hashlib.sha256("".join(hashes).encode()).hexdigest()[:16],
        "metrics": hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16],
        "student": {style: [scores["success"], scores["return"]] for style, scores in student.items()},
    }


def play(name: str, log: Path) -> dict[str, Any]:
    """Train one run and digest it."""
    words = [*RUNS[name].split(), "--savedir", name, "--logdir", str(log), "--device", "cpu", "--quiet", "--json"]
    done = subprocess.run(
        [sys.executable, "main.py", "train", *words], cwd=HERE.parent, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return digest(Path(json.loads(done.stdout.splitlines()[-1])["run"]))


def main() -> None:
    """Record the digests, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("record", "check"))
    parser.add_argument("names", nargs="*", metavar="RUN", help=f"of {', '.join(RUNS)}; all if none")
    said = parser.parse_args()
    names = said.names or list(RUNS)
    machine = {"processor": platform.machine(), "torch": torch.__version__}
    machine["kernels"] = torch.backends.cpu.get_cpu_capability()
    known = json.loads(FILE.read_text()) if FILE.exists() else {"runs": {}}
    if said.verb == "check" and known.get("machine") != machine:
        print(f"note: recorded on {known.get('machine')}, this is {machine}")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        first = [name for name in ("dagger", "hiro-planned") if name in names]  # others start from their controllers
        found = dict(zip(first, pool.map(lambda name: play(name, Path(folder)), first), strict=True))
        rest = [name for name in names if name not in first]
        found |= dict(zip(rest, pool.map(lambda name: play(name, Path(folder)), rest), strict=True))
    if said.verb == "record":
        runs = {name: (known["runs"] | found)[name] for name in RUNS if name in known["runs"] | found}
        FILE.write_text(json.dumps({"machine": machine, "runs": runs}, indent=1) + "\n")
        return
    wrong = 0
    for name in names:
        parts = [part for part, value in found[name].items() if known["runs"][name][part] != value]
        wrong += bool(parts)
        print(f"{name}: {'differs in ' + ', '.join(parts) if parts else 'equal'}")
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()

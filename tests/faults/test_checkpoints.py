"""What happens to saved state when the process, the disk or the reader misbehaves."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from preceptor.agent.runs.checkpoint import STRUCTURE, TENSORS, load_tree, save_tree
from preceptor.ground.atomic import CheckpointError, publish_folder, standing, write_json
from preceptor.ground.errors import UserError

ROOT = Path(__file__).parents[2]


def python(code, folder):
    """What a process of its own prints."""
    told = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 120, "check": False}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, str(folder)], **told, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def save_until_killed(folder):
    """The victim: saves version after version; every element of the tensor is the version."""
    version = load_tree(Path(folder))[1]["version"]
    while True:
        version += 1
        save_tree(Path(folder), {"x": torch.full((30_000,), version)}, {"version": version})


def kill_many_savers(folder, trials):
    """Fork, kill and check `trials` savers; how often the kill came in the middle of a save, and the last version."""
    rng, inside, version, started = random.Random(0), 0, 0, time.perf_counter()
    save_tree(Path(folder), {"x": torch.zeros(30_000, dtype=torch.int64)}, {"version": 0})
    longest = 3 * (time.perf_counter() - started)  # a busy machine saves slowly
    for _ in range(trials):
        child = os.fork()
        if child == 0:
            save_until_killed(folder)
        time.sleep(rng.uniform(0.0, longest))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        inside += len(list(Path(folder).parent.glob(".*"))) > 0
        tree, meta = load_tree(Path(folder))
        assert meta["version"] >= version
        assert torch.equal(tree["x"], torch.full((30_000,), meta["version"]))
        version = meta["version"]
    return {"inside": inside, "version": version}


def test_kill_while_saving_never_loses_a_checkpoint(tmp_path):
    code = "from tests.faults.test_checkpoints import *; print(json.dumps(kill_many_savers(sys.argv[1], 40)))"
    seen = json.loads(python(code, tmp_path / "c"))
    assert seen["inside"] > 5
    assert seen["version"] > 0


@pytest.mark.parametrize("moment", ["before the swap", "between the two renames"])
def test_a_killed_save_is_cleaned_up_by_the_next(tmp_path, moment):
    folder = tmp_path / "c"
    save_tree(folder, [1], {})
    (tmp_path / ".c.draft").mkdir()
    (tmp_path / ".c.draft" / TENSORS).write_bytes(b"half")
    if moment == "between the two renames":
        folder.rename(tmp_path / ".c.replaced")
    assert load_tree(folder)[0] == [1]
    save_tree(folder, [2], {})
    assert load_tree(folder)[0] == [2]
    assert os.listdir(tmp_path) == ["c"]


def test_a_block_that_raises_publishes_nothing(tmp_path):
    with contextlib.suppress(ZeroDivisionError), publish_folder(tmp_path / "c") as draft:
        (draft / "file").write_text(str(1 // 0))
    assert os.listdir(tmp_path) == []
    assert standing(tmp_path / "c") == tmp_path / "c"


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip_the_last_bit(path):
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def rewrite(**changes):
    def damage(path):
        saved = {**json.loads(path.read_text()), **changes}
        write_json(path, {key: value for key, value in saved.items() if value is not None})

    return damage


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        *[(TENSORS, damage, "truncated") for damage in (cut_short, Path.unlink, flip_the_last_bit)],
        *[(STRUCTURE, damage, "truncated") for damage in (cut_short, rewrite(tree=None))],
        (STRUCTURE, Path.unlink, "does not exist"),
        (STRUCTURE, lambda path: write_json(path, {"model_type": "llama"}), "not a preceptor-state file"),
        (STRUCTURE, lambda path: path.write_text("[1, 2]"), "no object"),
        (STRUCTURE, rewrite(schema=3), "reads up to"),
        ("", shutil.rmtree, "no checkpoint"),
    ],
)
def test_damaged_state_is_named(tmp_path, name, damage, words):
    save_tree(tmp_path / "c", {"x": torch.arange(9)}, {})
    damage(tmp_path / "c" / name)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_tree(tmp_path / "c")
    assert str(tmp_path / "c") in caught.value.what
    assert caught.value.next_step


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    """A limit on file sizes stands in for the full disk: the write fails in the middle, below Python."""
    code = (
        "import resource, sys; from pathlib import Path; import torch\n"
        "from preceptor.agent.runs.checkpoint import load_tree, save_tree\n"
        "from preceptor.ground.errors import UserError\n"
        "folder = Path(sys.argv[1])\n"
        "save_tree(folder, {'x': torch.zeros(10)}, {'version': 1})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try:\n    save_tree(folder, {'x': torch.zeros(100_000)}, {'version': 2})\n"
        "except UserError as error:\n    print(error)\n"
        "assert load_tree(folder)[1] == {'version': 1}\n"
    )
    said = python(code, tmp_path / "c")
    assert "File too large" in said
    assert "df -h" in said
    assert "untouched" in said
    assert "--resume" in said
    assert os.listdir(tmp_path) == ["c"]


def test_the_refusals_of_the_system_are_user_errors(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="File exists") as caught:
        save_tree(tmp_path / "file" / "c", [1], {})
    assert "--logdir" in caught.value.next_step


def test_a_leaf_that_no_tree_can_hold_is_named(tmp_path):
    with pytest.raises(TypeError, match="cannot save a/0: a object"):
        save_tree(tmp_path / "c", {"a": [object()]}, {})
    with pytest.raises(TypeError, match="dtype <U1"):
        save_tree(tmp_path / "c", {"a": np.array(["x"])}, {})
    assert os.listdir(tmp_path) == []

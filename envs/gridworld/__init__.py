"""The MiniGrid tasks: levels, a batched engine, single environments, scripted skills.

Kernels here call one another across files, and Numba's on-disk cache notices a changed file but not a changed callee in
another one. So the cache lives in a folder named after the sources of them all, unless the user has chosen a folder.
"""

import hashlib
from pathlib import Path

import numba

_FOLDER = Path(__file__).parent
_CALLEES = ("cells.py", "levels.py", "sight.py", "canvas.py", "engine.py", "../../ground/level_seeds.py")

if not numba.config.CACHE_DIR:
    _digest = hashlib.sha256(b"".join((_FOLDER / name).read_bytes() for name in _CALLEES)).hexdigest()[:12]
    numba.config.CACHE_DIR = str(_FOLDER / "__pycache__" / f"kernels-{_digest}")

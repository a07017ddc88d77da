"""A module of ours run where there is no GPU, by Numba's simulator: `python -m dev.simulated_gpu MODULE WORDS...`.

The simulator runs kernels as Python, one thread after the other, and so what they call has to be Python, too. All that
is not called by a kernel stays compiled.
"""

import os
import runpy
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def uncompiled() -> Iterator[None]:
    """Within it, our modules have functions in Python where they have compiled ones."""
    from numba.core.dispatcher import Dispatcher

    modules = [vars(module) for name, module in list(sys.modules.items()) if name.startswith("preceptor.")]
    places = [(names, name, each) for names in modules for name, each in names.items() if isinstance(each, Dispatcher)]
    for names, name, compiled in places:
        names[name] = compiled.py_func
    try:
        yield
    finally:
        for names, name, compiled in places:
            names[name] = compiled


def main() -> None:
    """Run the module that is named."""
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
    from numba.cuda.simulator.kernel import FakeCUDAKernel

    launch = FakeCUDAKernel.__call__

    def launch_in_python(kernel: Any, *arguments: Any) -> None:
        with uncompiled():
            launch(kernel, *arguments)

    FakeCUDAKernel.__call__ = launch_in_python
    warnings.filterwarnings("ignore", "overflow")  # of random numbers, which as Python is audible
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

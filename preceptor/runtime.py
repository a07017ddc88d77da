"""Exported agents at play, with NumPy and ONNX Runtime: torch is not loaded. `python main.py export RUN` writes them.

import preceptor.runtime

agent = preceptor.runtime.load("log/ihac/KeyInBox/first/export/onnx", greedy=True)
action = agent.act(observation)
"""

from preceptor.agent.export.playing import load, load_player

__all__ = ["load", "load_player"]

"""How client training is executed: one after the other, or by a pool of processes; the sum is the same."""

from privfl.engine.loop import LoopExecutor
from privfl.engine.processes import ProcessExecutor

__all__ = ["LoopExecutor", "ProcessExecutor"]

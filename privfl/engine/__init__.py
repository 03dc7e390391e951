"""Executors of client training: one client after the other, or a pool of processes; the sum is equal."""

from privfl.engine.loop import LoopExecutor
from privfl.engine.processes import ProcessExecutor

__all__ = ["LoopExecutor", "ProcessExecutor"]

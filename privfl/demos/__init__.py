"""The demonstrations of `privfl demo`: ten hospitals, and linear regression. `report.demo` draws their results."""

from privfl.demos.hospitals import Demo, DemoResult
from privfl.demos.regression import LineDemo, LineResult

__all__ = ["Demo", "DemoResult", "LineDemo", "LineResult"]

"""Accuracy of linear models against epsilon of one patient and of one site: `privfl compare` over several seeds.

    PRIVFL_DATA=FOLDER python benchmarks/fl/patients_tables.py heart-example

The cells of a case are kept in FOLDER of `--to`, so a run that was interrupted goes on. Its rows are written to
results/patients-tables.json, from which `patients_page.py` makes the tables and the picture of docs/patients.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Final

from privfl.experiment.compare import as_record, run_comparison, summarize
from privfl.experiment.comparison import Comparison

RESULTS: Final = Path(__file__).parents[1] / "results" / "patients-tables.json"
PLAIN: Final = ("plain",)
PATIENTS: Final = (0.5, 1.0, 3.0, 8.0)
SITES: Final = (1.0, 2.0, 4.0, 8.0)
CASES: Final = {
    "heart-example": Comparison("heart", 4, "natural", epsilons=PATIENTS, seeds=5, sums=PLAIN, unit="example"),
    "digits-example": Comparison("digits", 10, "dirichlet:1", epsilons=PATIENTS, seeds=5, sums=PLAIN, unit="example"),
    "adult-example": Comparison("adult", 8, "quantity:1.2", epsilons=PATIENTS, seeds=3, sums=PLAIN, unit="example"),
    "digits-client": Comparison("digits", 32, "dirichlet:1", epsilons=SITES, seeds=5, sums=PLAIN),
    "adult-client": Comparison("adult", 32, "quantity:1.2", epsilons=SITES, seeds=3, sums=PLAIN),
}
"""The unit of a name's second half decides whose epsilon it is. Hospitals are natural; banks differ in size."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--to", type=Path, default=Path("patients"))
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    comparison = CASES[asked.case]
    cells = []
    for cell in run_comparison(comparison, asked.to / asked.case, resume=True, workers=asked.workers):
        cells.append(cell)
        print(f"{cell.arm}, seed {cell.seed}: {cell.value:.4f}", flush=True)
    record = as_record(comparison, summarize(comparison, cells))
    kept = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    names = ("settings", "metric", "tuning", "rows")
    kept[asked.case] = {name: record[name] for name in names}
    kept[asked.case]["settings"].pop("base")
    asked.out.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""SCAFFOLD against FedAvg on MNIST where each of twenty clients holds two digits or so, and a plot.

    python examples/label_skew.py DATA      # the data folder; or set PRIVFL_DATA

Local steps of clients with different labels pull apart. SCAFFOLD's control variates correct for it, through the same
sum: change `sum.scheme` to "masked" and the models stay the same to the last bit.
"""

import sys

import matplotlib.pyplot as plt

from privfl.experiment import Experiment

folder = sys.argv[1] if len(sys.argv) > 1 else None
for algorithm, line in (("fedavg", "o-"), ("scaffold", "s-")):
    experiment = Experiment(
        name=algorithm,
        rounds=20,
        overrides={
            "data.name": "mnist",
            "data.folder": folder,
            "data.clients": 20,
            "data.partition": "shards:2",
            "model.kind": "mlp",
            "model.hidden": [64],
            "client.algorithm": algorithm,
            "client.learning_rate": 0.2,
            "client.batch_size": 20,
            "cohort.sampling": "fixed-size",
            "cohort.size": 10,
            "server.weighting": "uniform",
            "engine.workers": 2,
        },
    )
    accuracies = [report.evaluation["accuracy"] for report in experiment.each_round()]
    print(f"{algorithm}: accuracy {accuracies[-1]:.3f} after {len(accuracies)} rounds", flush=True)
    plt.plot(range(1, len(accuracies) + 1), accuracies, line, label=algorithm)
plt.xlabel("round")
plt.ylabel("test accuracy")
plt.legend()
plt.savefig("label_skew.png")

"""A next-character model over the speakers of Shakespeare's plays: 99 clients, a small network, and a plot.

    python examples/next_character.py DATA      # the data folder; or set PRIVFL_DATA

Each speaker is a client, whose lines never leave it. After the training every speaker also tunes a copy of the model to
its own lines, and the plot compares the two.
"""

import sys

import matplotlib.pyplot as plt
import torch
from torch import nn

from privfl.adapters.torch import Sgd, TorchMeasure, TorchTrain
from privfl.data import load, partition
from privfl.experiment import Client, Cohort, Experiment
from privfl.fl import FedAdam


class NextCharacter(nn.Module):
    """Logits `[n, 65, length]` of the character after each one, from the eight characters before."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.past, self.out = nn.Embedding(65, 16), nn.Conv1d(16, 64, 8), nn.Conv1d(64, 65, 1)

    def forward(self, characters: torch.Tensor) -> torch.Tensor:
        embedded = nn.functional.pad(self.embed(characters.long()).transpose(1, 2), (7, 0))
        return self.out(torch.relu(self.past(embedded)))


speakers = partition(load("shakespeare", sys.argv[1] if len(sys.argv) > 1 else None), "natural", seed=0)
torch.manual_seed(0)
model = NextCharacter()
train = TorchTrain(model, speakers.train, optimizer=Sgd(0.5), batch_size=16)
experiment = Experiment(
    data=speakers,
    train=train,
    initial=train.initial(),
    measure=TorchMeasure(model, speakers.local_test),
    optimizer=FedAdam(eta=0.01),
    cohort=Cohort(sampling="fixed-size", size=10),
    client=Client(tuning=1),
    rounds=40,
    evaluate_every=20,
)
rounds, together, tuned = [], [], []
for report in experiment.each_round():
    if report.evaluation:
        rounds.append(report.round)
        together.append(report.evaluation["accuracy"])
        tuned.append(report.evaluation["tuned_accuracy"])
        print(f"round {report.round}: {together[-1]:.3f} of the characters, {tuned[-1]:.3f} after tuning", flush=True)
plt.plot(rounds, together, "o-", label="one model for all speakers")
plt.plot(rounds, tuned, "s--", label="tuned to each speaker")
plt.xlabel("round")
plt.ylabel("next characters predicted")
plt.legend()
plt.savefig("next_character.png")

"""A torch model of your own, trained over twenty clients that hold different digits each."""

from torch import nn

from privfl.adapters.torch import Sgd, TorchMeasure, TorchTrain
from privfl.data import load, partition
from privfl.experiment import Experiment

data = partition(load("digits"), "dirichlet:0.5", 20, seed=1)
model = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))
train = TorchTrain(model, data.train, optimizer=Sgd(0.1, momentum=0.9), batch_size=10)
measure = TorchMeasure(model, data.local_test)
experiment = Experiment(data=data, train=train, initial=train.initial(), measure=measure, rounds=5)
for report in experiment.each_round():
    print(report.round, report.metrics, report.evaluation)
trained = train.module(experiment.model)  # a torch.nn.Module again, in evaluation mode

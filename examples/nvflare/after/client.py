"""The client script: adds one to each weight, and reports the mean."""

import numpy as np
import nvflare.client as flare
from nvflare.app_common.np.constants import NPConstants
from nvflare.client.tracking import SummaryWriter


def main() -> None:
    flare.init()
    writer = SummaryWriter()
    while flare.is_running():
        received = flare.receive()
        weights = received.params[NPConstants.NUMPY_KEY]
        trained = weights + 1
        metrics = {"weight_mean": float(np.mean(trained))}
        writer.add_scalar(tag="weight_mean", scalar=metrics["weight_mean"], global_step=received.current_round)
        flare.send(flare.FLModel(params={NPConstants.NUMPY_KEY: trained}, metrics=metrics))


if __name__ == "__main__":
    main()

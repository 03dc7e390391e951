"""A quickstart client: fits a line to examples of its own."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def examples(context: Context) -> tuple[np.ndarray, np.ndarray]:
    """This node's examples: points near y = 3x + 1."""
    place = int(context.node_config["partition-id"])
    rng = np.random.default_rng(place)
    x = rng.uniform(-1, 1, 20 + 10 * place)
    return x, 3 * x + 1 + rng.normal(0, 0.1, len(x))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Ten steps of gradient descent."""
    slope, offset = message.content["arrays"].to_numpy_ndarrays()
    x, y = examples(context)
    for _ in range(10):
        error = slope * x + offset - y
        slope, offset = slope - 0.5 * (error * x).mean(), offset - 0.5 * error.mean()
    metrics = MetricRecord({"train_loss": float((error**2).mean()), "num-examples": len(x)})
    return Message(RecordDict({"arrays": ArrayRecord([slope, offset]), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """The squared error of the model."""
    slope, offset = message.content["arrays"].to_numpy_ndarrays()
    x, y = examples(context)
    loss = float(((slope * x + offset - y) ** 2).mean())
    metrics = MetricRecord({"eval_loss": loss, "num-examples": len(x)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)

"""A client in torch. Without `mods=[secure]` and the three lines above it, this is an ordinary Flower app."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from privfl.adapters.flower import SecureSumMod
from privfl.site import Site
from quickstart_torch import task

app = ClientApp()
secure = SecureSumMod(lambda context, train: Site(str(context.node_config["site"]), train))


@app.train(mods=[secure])
def train(message: Message, context: Context) -> Message:
    """Train the network on this node's examples."""
    module = task.network()
    module.load_state_dict(message.content["arrays"].to_torch_state_dict())
    points, labels = task.examples(int(context.node_config["partition-id"]))
    loss = task.train(module, points, labels)
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(labels)})
    return Message(RecordDict({"arrays": ArrayRecord(module.state_dict()), "metrics": metrics}), reply_to=message)


@app.evaluate(mods=[secure])
def evaluate(message: Message, context: Context) -> Message:
    """The accuracy of the network on this node's examples."""
    module = task.network()
    module.load_state_dict(message.content["arrays"].to_torch_state_dict())
    points, labels = task.examples(int(context.node_config["partition-id"]))
    metrics = MetricRecord({"accuracy": task.accuracy(module, points, labels), "num-examples": len(labels)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)

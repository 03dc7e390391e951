"""The layout: exact in both directions for any module, and the rule for what is in the vector."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from privfl.adapters.torch import Layout
from privfl.adapters.torch.flat import FlatModule
from privfl.errors import ConfigError

CPU = torch.device("cpu")


def tied() -> nn.Module:
    module = nn.ModuleDict({"embed": nn.Embedding(7, 5), "norm": nn.LayerNorm(5), "head": nn.Linear(5, 7, bias=False)})
    module["head"].weight = module["embed"].weight
    return module


class Odd(nn.Module):
    """A scalar, an empty tensor, and a buffer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.5))
        self.nothing = nn.Parameter(torch.zeros(0, 3))
        self.register_buffer("table", torch.arange(3.0), persistent=False)
        self.register_buffer("running_center", torch.full((2,), 0.1))
        self.register_buffer("mask", torch.ones(2))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("absent", None)


MODULES = {
    "mlp": lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)),
    "conv": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LazyLinear(2)),
    "channels last": lambda: nn.Conv2d(4, 3, 3).to(memory_format=torch.channels_last),
    "lstm": lambda: nn.LSTM(3, 4, num_layers=2),
    "attention": lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)),
    "double": lambda: nn.Linear(3, 2).double(),
    "tied": tied,
    "odd": Odd,
    "empty": nn.Sequential,
}


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(1)
    module = MODULES[request.param]()
    if request.param == "conv":
        module(torch.zeros(2, 1, 5, 5))
    return module


def test_the_round_trip_is_exact(module: nn.Module) -> None:
    layout = Layout.of(module)
    rng = np.random.default_rng(0)
    vector = rng.normal(size=layout.size).astype(layout.dtype)
    vector[:2] = [np.nan, -0.0][: len(vector)]
    layout.load(vector, module)
    assert layout.flatten(module).tobytes() == vector.tobytes()
    assert layout.join(layout.split(vector)).tobytes() == vector.tobytes()
    for name, part in layout.split(vector).items():
        np.testing.assert_array_equal(part, module.state_dict()[name].numpy())
    assert layout.size == sum(part.size for part in layout.split(vector).values())


def test_a_bound_module_computes_from_the_flat_vector(module: nn.Module) -> None:
    before = Layout.of(module).flatten(module)
    flat = FlatModule(module, buffers="shared", device=CPU)
    np.testing.assert_array_equal(flat.values.numpy(), before)
    np.testing.assert_array_equal(flat.layout.flatten(flat.module), before)
    with torch.no_grad():
        flat.values.fill_(3.0)
    for parameter in flat.module.parameters():
        assert (parameter == 3.0).all()
    np.testing.assert_array_equal(Layout.of(module).flatten(module), before)  # the user's own module is left alone
    copy = flat.unbound()
    with torch.no_grad():
        flat.values.fill_(4.0)
    for parameter in copy.parameters():
        assert (parameter == 3.0).all()


def test_parameters_come_first_and_buffers_follow_the_rule() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), Odd())
    shared, local = Layout.of(module), Layout.of(module, buffers="local")
    names = ["0.weight", "0.bias", "1.weight", "1.bias", "2.scale", "2.nothing"]
    assert [entry.name for entry in local.entries] == names
    assert [entry.name for entry in shared.entries] == [*names, "1.running_mean", "1.running_var", "2.running_center"]
    assert shared.parameters == local.parameters == local.size == 18 + 2 + 2 + 2 + 1
    assert [entry.kind for entry in shared.entries] == ["parameter"] * 6 + ["buffer"] * 3
    assert shared.entries[-1].stop == shared.size == local.size + 6


def test_tied_weights_have_one_place_and_stay_tied() -> None:
    flat = FlatModule(tied(), buffers="shared", device=CPU)
    assert [entry.name for entry in flat.layout.entries] == ["embed.weight", "norm.weight", "norm.bias"]
    assert flat.module["head"].weight is flat.module["embed"].weight
    assert flat.spans == [(0, 45)]


def test_a_float64_vector_is_rounded_to_a_float32_module() -> None:
    module = nn.Linear(1, 1)
    Layout.of(module).load(np.array([1 / 3, 1e-50]), module)
    np.testing.assert_array_equal(Layout.of(module).flatten(module), np.array([1 / 3, 0], np.float32))


def test_what_no_vector_can_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"weight is torch.bfloat16"):
        Layout.of(nn.Linear(2, 2).bfloat16())
    with pytest.raises(ConfigError, match=r"1.weight is torch.float64 and 0.weight is torch.float32"):
        Layout.of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()))
    with pytest.raises(ConfigError, match="weight has no shape yet"):
        Layout.of(nn.LazyLinear(2))
    with pytest.raises(ConfigError, match="'shared' or 'local', not 'fedbn'"):
        Layout.of(nn.Linear(2, 2), buffers="fedbn")  # type: ignore[arg-type]
    twins = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    twins[1].weight.data = twins[0].weight.data
    with pytest.raises(ConfigError, match=r"0.weight and 1.weight share memory"):
        Layout.of(twins)


def test_vectors_and_modules_of_another_form_are_refused() -> None:
    module = nn.Linear(2, 2)
    layout = Layout.of(module)
    for wrong in (np.zeros(5), np.zeros((6, 1)), np.zeros(6, np.int64)):
        with pytest.raises(ConfigError, match=r"floats of shape \(6,\) are expected"):
            layout.load(wrong, module)
    with pytest.raises(ConfigError, match="another layout"):
        layout.flatten(nn.Linear(3, 2))
    parts = layout.split(np.zeros(6))
    with pytest.raises(ConfigError, match=r"missing or unknown arrays: \['bias'\]"):
        layout.join({"weight": parts["weight"]})
    with pytest.raises(ConfigError, match=r"bias has shape \(1,\), not \(2,\)"):
        layout.join({**parts, "bias": np.zeros(1)})


def test_adapters_alone_do_not_import_torch_and_its_absence_is_told() -> None:
    code = """
import sys
import privfl.adapters, privfl.engine
assert "torch" not in sys.modules
sys.modules["torch"] = None
try:
    import privfl.adapters.torch
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "MissingExtra torch is not installed; run: pip install 'privfl[torch]'\n"

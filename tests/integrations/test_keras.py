"""Compiled Keras models on the torch backend: found, trained as `fit` does, and left as they were."""

from __future__ import annotations

import os
import pickle
import random
import re
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch

# Keras asks for its backend when it is imported.
os.environ["KERAS_BACKEND"] = "torch"

keras = pytest.importorskip("keras", minversion="3.15")
from keras import Sequential, layers, ops
from keras.layers import Dense
from keras.regularizers import l2

import autobatch
from autobatch import AutobatchError, Limits
from autobatch.decision.critical_batch import learning_rate_power
from autobatch.engines.local import LocalEngine
from autobatch.engines.messages import Recipe
from autobatch.engines.worker_process import worker_environment
from autobatch.planning.capacity import StepMemory
from autobatch.records.plan import Usage
from autobatch.worker.gradients import has_batch_norm, measure_chunks
from autobatch.worker.memory_trace import Tracer
from autobatch.workload.dataset import open_samples
from autobatch.workload.keras import backend, detection
from autobatch.workload.keras.archive import Archive
from autobatch.workload.parts import Parts
from autobatch.workload.snapshot import Snapshot
from autobatch.workload.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
# Time enough for the check, however busy the machine is.
QUICK = Limits(min_batch=8, max_batch=32, budget_seconds=20)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
]


def arrays(count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """One feature from 0 to 1, and its class, one label in twenty wrong."""
    numbers = np.random.default_rng(0)
    features = numbers.random((count, 1), dtype=np.float32)
    return features, ((features[:, 0] > 0.6) ^ (numbers.random(count) < 0.05)).astype(np.int64)


def beginner() -> Any:
    """The model as it stands in many a text."""
    model = Sequential(
        [
            Dense(16, input_shape=(1,), activation="relu"),
            Dense(32, activation="relu", kernel_regularizer=l2(0.01)),
            Dense(2, activation="sigmoid"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=0.001),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def drifting_model(optimizer: Any = "adam", **compiled: Any) -> Any:
    """All that a forward pass changes: running statistics, a seeded dropout, one that isn't."""
    model = Sequential(
        [
            layers.Input((1,)),
            Dense(8),
            layers.BatchNormalization(),
            layers.Dropout(0.5, seed=3),
            layers.Dropout(0.1),
            Dense(2, activation="softmax"),
        ]
    )
    model.compile(optimizer, loss=compiled.pop("loss", "sparse_categorical_crossentropy"), **compiled)
    return model


def trainer(model: Any, data: Any = None, **rest: Any) -> Trainer:
    parts = Parts(model=model, dataset=data, **rest)
    return Trainer(parts, open_samples(arrays() if data is None else data), None, "cpu")


def state(model: Any) -> dict[str, Any]:
    """All that a training could change: values by path, flags, metrics, gradients, random states, names."""
    variables = [*model.variables, *model.optimizer.variables]
    metrics = [variable for metric in model.metrics for variable in metric.variables]
    return {
        "values": [(v.path, v.value.detach().clone().numpy().tobytes()) for v in variables],
        "same": [id(v.value) for v in variables],
        "metrics": [(v.path, v.value.detach().clone().numpy().tobytes()) for v in metrics],
        "gradients": [v.value.grad is None for v in model.trainable_variables],
        "flags": [(layer.name, layer.trainable, layer.built) for layer in model.layers],
        "modes": [module.training for module in model.modules()],
        "compiled": (model.compiled, id(model.optimizer), id(model.loss), model.stop_training),
        "random": (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()),
        "keras": (keras.config.floatx(), keras.config.backend(), keras.config.dtype_policy().name),
        "environment": dict(os.environ),
    }


def test_the_beginners_model_is_found_and_trains_with_the_answer():
    model = beginner()
    x, y = arrays(600)
    found = autobatch.find(
        model, (x[:500], y[:500]), val_dataset=(x[500:], y[500:]), batch_size=10, epochs=2, limits=QUICK
    )
    workload = found.workload
    assert workload.epochs == 2
    assert (workload.model, workload.parameters, workload.optimizer) == ("Sequential", 642, "Adam")
    assert (workload.loss, workload.learning_rate) == ("sparse_categorical_crossentropy", 0.001)
    assert (workload.dataset, workload.dataset_size, workload.batch_size) == ("2 arrays", 500, 10)
    assert found.check is not None
    assert found.check.critical_batch_size is not None, found.check.detail
    assert found.learning_rate is not None
    model.optimizer.learning_rate = found.learning_rate
    history = model.fit(
        x=x[:500],
        y=y[:500],
        validation_data=(x[500:], y[500:]),
        batch_size=found.batch_size,
        epochs=2,
        shuffle=True,
        verbose=0,
    )
    assert np.isfinite(history.history["val_loss"]).all()


def test_find_leaves_a_model_in_the_middle_of_its_training_as_it_was():
    model = drifting_model(keras.optimizers.Adam(0.01), metrics=["accuracy"])
    x, y = arrays()
    model.fit(x, y, epochs=1, verbose=0)
    model.layers[0].trainable = False
    before = state(model)
    found = autobatch.find(model, (x, y), limits=Limits(max_batch=4, budget_seconds=2))
    after = state(model)
    assert [name for name in before if before[name] != after[name]] == []
    assert found.workload.batch_size == 32
    assert "current batch size: 32, the default of Keras' `fit`" in found.workload.inferred


def test_a_name_that_keras_gives_is_the_same_after_find_has_packed_a_model():
    model = beginner()
    first = int(Dense(1).name.rpartition("_")[2])
    Archive(model)
    assert int(Dense(1).name.rpartition("_")[2]) == first + 1


def test_a_step_is_what_train_on_batch_does():
    keras.utils.set_random_seed(0)
    ours, theirs = beginner(), beginner()
    theirs.set_weights(ours.get_weights())
    one = trainer(ours)
    for seed in range(3):
        batch = one.load(32, seed)
        ours.reset_metrics()
        loss = one.step(batch)
        logs = theirs.train_on_batch(*batch, return_dict=True)
        assert float(loss) == logs["loss"]
    for mine, expected in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, expected)
    assert one.optimizer_steps == 3
    batch = one.load(64, 9)
    held_out = float(one.evaluate(batch))
    assert held_out == pytest.approx(theirs.test_on_batch(*batch, return_dict=True)["loss"], abs=1e-6)


def usage_by_trace(model: Any, batch_size: int, *, fake: bool) -> Usage:
    tracer = Tracer(trainer(model), cuda=False, fake=fake)
    # The first step of all leaves its output to the garbage collector, whenever that comes.
    tracer.between(1, 2)
    return StepMemory(tracer.between(4, 8).lifetimes).usage(batch_size)


@pytest.mark.parametrize(
    ("optimizer", "slots"), [("adam", 2), ("sgd", 0), ({"class_name": "SGD", "config": {"momentum": 0.9}}, 1)]
)
def test_what_a_traced_step_holds_is_told_by_its_kind(optimizer, slots):
    def wide() -> Any:
        # Layers of one shape: what the first of them is asked, the others are not.
        made = Sequential([layers.Input((1,)), *(Dense(256) for _ in range(4)), Dense(2)])
        made.compile(keras.optimizers.get(optimizer), loss="sparse_categorical_crossentropy")
        return made

    weights_bytes = 4 * wide().count_params()
    parts = usage_by_trace(wide(), 4, fake=True).parts
    # Each storage is rounded up to 512 bytes, and Keras has numbers of its own.
    near = {"rel": 0.02, "abs": 4096}
    assert astuple(parts) == pytest.approx(astuple(usage_by_trace(wide(), 4, fake=False).parts), **near)
    assert parts.parameters_bytes == pytest.approx(weights_bytes, **near)
    assert parts.gradients_bytes == pytest.approx(weights_bytes, **near)
    assert parts.optimizer_bytes == pytest.approx(slots * weights_bytes, **near)


def test_the_gradient_is_that_of_the_compiled_loss_regularisers_included():
    model = beginner()
    one = trainer(model)
    batch = one.load(16, 0)
    one.backward(batch)
    kernel = model.layers[1].kernel.value
    whole = kernel.grad.clone()
    model.zero_grad()
    outputs = model(batch[0], training=True)
    bare = keras.losses.sparse_categorical_crossentropy(batch[1], outputs).mean()
    bare.backward()
    torch.testing.assert_close(whole - kernel.grad, 2 * 0.01 * kernel.detach())


def test_the_scaled_loss_of_half_precision_leaves_the_gradient_as_it_is():
    plain, scaling = drifting_model(), drifting_model()
    scaling.set_weights(plain.get_weights())
    scaling.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), loss=plain.loss)
    gradients = []
    for model in (plain, scaling):
        model.layers[2].rate = model.layers[3].rate = 0.0
        one = trainer(model)
        one.backward(one.load(16, 0))
        gradients.append(model.layers[0].kernel.value.grad)
    torch.testing.assert_close(*gradients)
    assert one.describe().optimizer == "Adam"


def test_a_snapshot_brings_back_weights_optimizer_statistics_seeds_and_rate():
    model = drifting_model(keras.optimizers.Adam(0.01), metrics=["accuracy"])
    one = trainer(model)
    one.step(one.load(8, 0))
    snapshot = Snapshot(one)
    runs = []
    for _ in range(2):
        snapshot.restore()
        assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
        one.scale_learning_rates(3.0)
        losses = [float(one.step(one.load(8, seed))) for seed in range(4)]
        assert float(model.optimizer.learning_rate) == pytest.approx(0.03)
        runs.append((losses, [v.numpy().tobytes() for v in (*model.variables, *model.optimizer.variables)]))
    assert runs[0] == runs[1]


def test_the_noise_measurement_leaves_statistics_and_seeds_alone():
    model = drifting_model()
    one = trainer(model)
    assert has_batch_norm(model)
    before = [v.numpy().tobytes() for v in model.variables]
    measure_chunks(one, 8, 16, 0)
    assert [v.numpy().tobytes() for v in model.variables] == before
    one.step(one.load(8, 0))
    assert [v.numpy().tobytes() for v in model.variables] != before


def test_the_rates_of_a_schedule_are_multiplied_and_its_steps_told():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=1, decay_rate=0.5)
    model = drifting_model(keras.optimizers.SGD(schedule, momentum=0.9))
    one = trainer(model)
    workload = one.describe()
    assert workload.learning_rate is None
    assert [(step.name, step.steps) for step in workload.schedule] == [("decay_steps", 1)]
    assert [(decay.name, decay.value) for decay in workload.decays] == [("momentum", 0.9)]
    snapshot = Snapshot(one)
    one.scale_learning_rates(2.0)
    rates = []
    for seed in range(3):
        one.step(one.load(4, seed))
        rates.append(float(model.optimizer.learning_rate))
    assert rates == pytest.approx([0.1, 0.05, 0.025])
    snapshot.restore()
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("optimizer", "name", "power"),
    [
        ("sgd", "SGD", 1.0),
        ("adam", "Adam", 0.5),
        ("adamw", "AdamW", 0.5),
        ("nadam", "Nadam", 0.5),
        ("adamax", "Adamax", 0.5),
        ("rmsprop", "RMSprop", None),
    ],
)
def test_the_rule_for_the_learning_rate_goes_by_the_compiled_optimizer(optimizer, name, power):
    workload = trainer(drifting_model(optimizer)).describe()
    assert workload.optimizer == name
    assert learning_rate_power(workload.optimizer) == power


def test_several_inputs_and_sample_weights_come_as_nested_arrays():
    first, second = layers.Input((3,), name="first"), layers.Input((2,), name="second")
    joined = layers.Concatenate()([first, second])
    model = keras.Model({"first": first, "second": second}, Dense(1)(joined))
    model.compile("sgd", loss="mse")
    numbers = np.random.default_rng(0)
    inputs = {"first": numbers.random((50, 3)), "second": numbers.random((50, 2))}
    data = (inputs, numbers.random((50, 1)), np.arange(50.0))
    one = trainer(model, data)
    rows = [7, 3]
    batch = one.load_rows(rows)
    np.testing.assert_allclose(batch[0]["first"], inputs["first"][rows], rtol=1e-6)
    assert batch[2].tolist() == [7.0, 3.0]
    expected = model.test_on_batch(inputs, data[1], sample_weight=data[2])
    assert float(one.evaluate(one.load_rows(range(50)))) == pytest.approx(float(expected), rel=1e-5)
    assert one.describe().dataset == "4 arrays"


def test_arrays_are_taken_at_once_and_as_a_loader_would_collate_them():
    data = arrays()
    at_once, one_by_one = open_samples(data), open_samples(data)
    at_once.bulk_indexing = True
    for mine, expected in zip(at_once.batch(16, 5), one_by_one.batch(16, 5), strict=True):
        assert torch.equal(mine, expected)
        assert (mine.dtype, mine.stride()) == (expected.dtype, expected.stride())


@pytest.mark.slow
def test_a_file_with_a_function_for_a_loss_is_probed(tmp_path: Path):
    (tmp_path / "small_keras.py").write_text(
        "import numpy as np, keras\n"
        "from keras import layers, ops\n"
        "def loss_fn(truth, output): return ops.mean(ops.square(truth - output))\n"
        "optimizer = keras.optimizers.SGD(0.1)\n"
        "model = keras.Sequential([layers.Dense(1)])\n"
        "model.compile(optimizer=optimizer, loss=loss_fn, metrics=['mae'])\n"
        "dataset = (np.ones((64, 3)), np.ones((64, 1)))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    command = [sys.executable, "-m", "autobatch", "probe", "small_keras.py", "--max-batch", "8"]
    ended = subprocess.run(
        [*command, "--budget", "2s"],
        cwd=tmp_path,
        env={**environment, "KERAS_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Sequential, 4 parameters · 2 arrays, 64 samples · loss_fn · SGD" in ended.stdout


@keras.saving.register_keras_serializable("mine")
def own_metric(truth: Any, output: Any) -> Any:
    return ops.mean(ops.abs(truth - output))


def test_code_that_only_the_caller_has_goes_with_the_model():
    class OwnLayer(layers.Layer):  # type: ignore[misc]
        def __init__(self, units: int, **rest: Any) -> None:
            super().__init__(**rest)
            self.units = units
            self.dense = Dense(units, activation=own_activation)

        def call(self, inputs: Any) -> Any:
            return self.dense(inputs)

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "units": self.units}

    def own_activation(inputs: Any) -> Any:
        return ops.tanh(inputs)

    def own_loss(truth: Any, output: Any) -> Any:
        return ops.mean(ops.square(truth - output))

    model = Sequential([layers.Input((3,)), OwnLayer(4), Dense(1, activation=own_activation)])
    model.compile("adam", loss=own_loss, metrics=[own_metric])
    data = (np.ones((8, 3), np.float32), np.ones((8, 1), np.float32))
    model.fit(*data, verbose=0)
    pickled = cloudpickle.dumps(Archive(model))
    expected = model.evaluate(*data, verbose=0)
    program = (
        "import sys, pickle, numpy as np; model = pickle.load(sys.stdin.buffer); "
        "print(model.evaluate(np.ones((8, 3)), np.ones((8, 1)), verbose=0), int(model.optimizer.iterations))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], input=pickled, cwd=ROOT, capture_output=True, check=True
    )
    assert ended.stdout.decode().split() == [*str(expected).split(), "1"]


def test_weights_and_optimizer_arrive_bit_by_bit():
    model = drifting_model(keras.optimizers.Adam(0.01))
    model.fit(*arrays(), verbose=0)
    arrived = pickle.loads(cloudpickle.dumps(Archive(model)))
    for one, other in zip(model.optimizer.variables, arrived.optimizer.variables, strict=True):
        assert torch.equal(one.value, other.value), one.path
    for one, other in zip(model.get_weights(), arrived.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def refused(model: Any, data: Any = None, **rest: Any) -> AutobatchError:
    with pytest.raises(AutobatchError) as raised:
        trainer(model, data, **rest)
    return raised.value


def test_a_model_that_is_not_compiled_is_refused():
    model = pickle.loads(cloudpickle.dumps(Archive(Sequential([layers.Input((1,)), Dense(1)]))))
    error = refused(model)
    assert error.code == "keras_not_compiled"
    assert "model.compile(" in error.hint


def test_a_precision_is_refused_since_keras_has_a_policy_for_it() -> None:
    with pytest.raises(AutobatchError, match="policy") as refused:
        autobatch.find(beginner(), arrays(), precision="bf16", limits=QUICK)
    assert refused.value.code == "own_precision"


def test_what_a_compiled_model_brings_is_not_given_twice():
    model = drifting_model()
    error = refused(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), loss_fn=torch.nn.MSELoss())
    assert error.code == "keras_two_losses"
    assert error.facts == ("given as well: `loss_fn`, `optimizer`",)


def test_gradients_that_keras_accumulates_are_refused():
    error = refused(drifting_model(keras.optimizers.Adam(gradient_accumulation_steps=4)))
    assert error.code == "keras_accumulation"


def test_an_optimizer_of_several_is_refused():
    optimizer = keras.optimizers.MultiOptimizer(lambda variable: keras.optimizers.SGD())
    assert refused(drifting_model(optimizer)).code == "keras_optimizer"


def test_a_train_step_of_its_own_is_measured_without_a_check():
    class Own(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = Dense(1)

        def call(self, inputs: Any) -> Any:
            return self.dense(inputs)

        def train_step(self, data: Any) -> dict[str, Any]:
            self.zero_grad()
            loss = self(data[0]).square().mean()
            loss.backward()
            with torch.no_grad():
                self.optimizer.apply([v.value.grad for v in self.trainable_variables])
            return {"loss": loss}

    model = Own()
    model.compile("sgd", loss="mse")
    one = trainer(model)
    first, second = (float(one.step(one.load(16, 0))) for _ in range(2))
    assert second < first
    assert "train_step" in one.why_no_check
    assert one.evaluate(one.load(4, 0)) is None


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return arrays(8)


def test_data_in_batches_of_its_own_is_refused():
    for call in (lambda: open_samples(Batches()), lambda: autobatch.find(beginner(), Batches())):
        with pytest.raises(AutobatchError) as raised:
            call()
        assert raised.value.code == "own_batches"


def test_a_model_of_another_backend_is_refused():
    class Model:
        """What a Keras model looks like on JAX or TensorFlow: no torch in it."""

    Model.__module__ = "keras.src.models.model"
    with pytest.raises(AutobatchError) as raised:
        autobatch.find(Model(), arrays())  # type: ignore[arg-type]
    assert raised.value.code == "keras_backend"
    assert "KERAS_BACKEND=torch" in raised.value.hint
    detection.refuse_other_backend(beginner())


def test_a_lambda_that_would_lose_its_globals_is_refused():
    model = Sequential([layers.Input((1,)), Dense(1)])
    model.compile("adam", loss=lambda truth, output: ops.mean(truth - output))
    with pytest.raises(AutobatchError) as raised:
        Archive(model)
    assert "`ops`" in raised.value.facts[0]


def test_a_subclass_that_keras_cannot_make_again_says_how_to_send_it():
    class Closed(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = Dense(2, activation="softmax")

        def call(self, inputs: Any) -> Any:
            return self.dense(inputs)

    def build() -> Any:
        model = Closed()
        model.compile("adam", loss="sparse_categorical_crossentropy")
        return model

    model = build()
    model(arrays()[0])
    pickled = cloudpickle.dumps(Archive(model))
    with pytest.raises(AutobatchError) as raised:
        pickle.loads(pickled)
    assert raised.value.code == "keras_not_rebuilt"
    assert "find(build_model, (x, y))" in raised.value.hint
    found = autobatch.find(build, arrays(), limits=Limits(max_batch=2, budget_seconds=1, check=False))
    assert found.workload.model == "Closed"


def test_a_worker_takes_torch_only_where_keras_would_find_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert backend.worker_environment() == {}
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert backend.worker_environment() == {"KERAS_BACKEND": "torch"}
    monkeypatch.delitem(sys.modules, "keras")
    assert backend.worker_environment() == {"KERAS_BACKEND": "torch"}
    # A backend that is installed was meant, and is told of as such.
    (tmp_path / "keras.json").write_text('{"backend": "json"}')
    assert backend.worker_environment() == {}


def test_the_example_is_the_model_of_the_texts():
    from autobatch.examples import keras_beginner

    (x, y), (held_x, _) = keras_beginner.build_dataset(), keras_beginner.build_val_dataset()
    assert (x.shape, held_x.shape) == ((1890, 1), (210, 1))
    assert (x.min(), x.max()) == (0, 1)
    older = x[:, 0] * 87 + 13 >= 64.5
    assert np.mean(older != y) == pytest.approx(0.05, abs=0.02)
    built, text = keras_beginner.build_model(), beginner()
    assert [layer.get_config()["units"] for layer in built.layers] == [16, 32, 2]
    assert built.count_params() == text.count_params() == 642
    history = built.fit(x, y, batch_size=64, epochs=2, verbose=0).history["loss"]
    assert history[1] < history[0]


def test_a_model_without_keras_is_trained_as_before():
    model = torch.nn.Linear(1, 2)
    one = Trainer(Parts(name="test", model=model), open_samples(arrays()), None, "cpu")
    assert one.describe().batch_size is None
    assert one.frameworks == ()
    assert one.drifting == []


@pytest.mark.slow
def test_the_guide_runs(tmp_path: Path):
    guide = (ROOT / "docs" / "keras.md").read_text(encoding="utf-8")
    program = "\n".join(re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL))
    (tmp_path / "guide.py").write_text(program)
    ended = subprocess.run(
        [sys.executable, "guide.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Epoch 20/20" in ended.stdout


@pytest.mark.slow
def test_keras_is_imported_once_ahead_of_all_further_sessions(tmp_path: Path):
    file = tmp_path / "tells_whether_keras_is_there.py"
    file.write_text(
        "import sys\n"
        "print('there' if 'keras' in sys.modules else 'not there')\n"
        "import numpy, keras\n"
        "model = keras.Sequential([keras.layers.Dense(1)])\n"
        "model.compile('sgd', 'mse')\n"
        "dataset = (numpy.ones((8, 3)), numpy.ones((8, 1)))\n"
    )
    said: list[str] = []
    environment = worker_environment("cpu", contended=False)
    engine = LocalEngine(Recipe(target=str(file)), Limits(), "cpu", environment, said.append)
    try:
        for _ in range(2):
            engine.open()
            engine.renew()
    finally:
        engine.close()
    assert said == ["not there", "there"]

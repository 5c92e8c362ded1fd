"""Compiled Keras models on the torch backend: found, trained as `fit` does, and left as they were."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

# Keras asks for its backend when it is imported.
os.environ["KERAS_BACKEND"] = "torch"

keras = pytest.importorskip("keras", minversion="3.5")
from keras import Sequential, layers
from keras.layers import Dense

import autobatch
from autobatch import AutobatchError, Limits
from autobatch.engines.local import LocalEngine
from autobatch.engines.messages import Recipe
from autobatch.engines.opening import worker_environment
from autobatch.planning.capacity import StepMemory
from autobatch.records.plan import Usage
from autobatch.worker.memory_trace import Tracer
from autobatch.workload.dataset import open_samples
from tests.workload.keras.models import arrays, beginner, drifting_model, state, trainer

ROOT = Path(__file__).resolve().parents[2]
# Time enough for the check, however busy the machine is.
QUICK = Limits(min_batch=8, max_batch=32, budget_seconds=600)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
]


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


def test_a_precision_is_refused_since_keras_has_a_policy_for_it() -> None:
    with pytest.raises(AutobatchError, match="policy") as refused:
        autobatch.find(beginner(), arrays(), precision="bf16", limits=QUICK)
    assert refused.value.code == "own_precision"


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

"""An answer in trackers, read back: what TensorBoard and MLflow keep, what a run of W&B holds."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from math import isfinite, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from autobatch.integrations import trackers
from autobatch.records.errors import UsageError
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Outcome
from tests.golden.test_text_report import CASES
from tests.security.test_security import HOSTILE, steers
from tests.storage.test_codec import SMALL
from tests.strategies import ANY_FLOATS, recommendations

CHECKED = replace(CASES["checked"](), learning_rate=0.0014, learning_rate_factor=1.4)


class Config:
    """`wandb.Run.config`: `update` refuses to change a value unless it is allowed to."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def update(self, d: dict[str, Any], allow_val_change: bool | None = None) -> None:
        changed = {name for name in d if name in self.values and self.values[name] != d[name]}
        assert allow_val_change or not changed
        self.values.update(d)


class WandbRun:
    """What is used of `wandb.Run`, with the signatures that its documentation gives."""

    def __init__(self) -> None:
        self.config = Config()
        self.summary: dict[str, Any] = {}


def test_weights_and_biases_gets_configuration_and_summary() -> None:
    run = WandbRun()
    run.config.update({"lr": 1})
    trackers.log(SMALL, run)
    trackers.log(CHECKED, run)
    assert run.config.values["lr"] == 1
    assert run.config.values["autobatch/batch_size"] == 32
    assert run.config.values["autobatch/learning_rate"] == 0.0014
    assert run.summary["autobatch/samples_per_second"] == 783
    assert run.summary["autobatch/critical_batch_size"] == 173
    assert run.summary["autobatch/why"] == CHECKED.why


def test_a_decision_is_logged_with_its_confidence_and_speedup() -> None:
    decided = CASES["same_epochs_change"]()
    assert trackers.parameters(decided)["autobatch/decision"] == "change"
    logged = trackers.figures(decided)
    assert decided.decision is not None
    assert logged["autobatch/confidence"] == decided.decision.confidence
    speedups = {row.batch_size: row.speedup for row in decided.same_epochs}
    assert logged["autobatch/speedup"] == speedups[decided.batch_size] > 1
    assert "autobatch/decision" not in trackers.parameters(CHECKED)
    assert not {"autobatch/confidence", "autobatch/speedup"} & set(trackers.figures(CHECKED))


def test_weights_and_biases_keeps_them(tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = pytest.importorskip("wandb", reason="Weights & Biases is missing (`pip install wandb`)")
    with wandb.init(mode="offline", dir=str(tmp_path), project="batches", config={"lr": 1}) as run:
        trackers.log(SMALL, run)
        trackers.log(CHECKED, run)
        assert dict(run.config) == {"lr": 1, **trackers.parameters(CHECKED)}
        assert run.summary["autobatch/samples_per_second"] == 783
        assert run.summary["autobatch/why"] == CHECKED.why


def test_tensorboard_gets_curves_over_batch_size_and_the_report(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        trackers.log(CHECKED, writer)
    events = EventAccumulator(str(tmp_path)).Reload()
    rates = events.Scalars("autobatch/trials/samples_per_second")
    assert [(one.step, one.value) for one in rates] == [(32, 783), (64, 920), (128, 1008), (256, 1057)]
    (report,) = events.Tensors("autobatch/report/text_summary")
    assert "Keep batch size 32" in report.tensor_proto.string_val[0].decode()
    # The row of hyperparameters lies in a folder of its own, named for what it is.
    assert [one.name for one in tmp_path.iterdir() if one.is_dir()] == ["autobatch"]
    row = EventAccumulator(str(tmp_path / "autobatch")).Reload()
    assert row.Scalars("autobatch/samples_per_second")[0].value == 783
    started = row.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert b"autobatch/batch_size" in started
    assert b"autobatch/learning_rate" in started


@pytest.mark.parametrize("how", ["module", "run", "client"])
def test_mlflow_gets_parameters_metrics_and_the_report(tmp_path: Path, monkeypatch: Any, how: str) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow", reason="MLflow is missing (`pip install mlflow-skinny`)")
    # Its file store tells in a warning that it will go; a database would need far more than is tested here.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with mlflow.start_run() as run:
        client = mlflow.MlflowClient()
        given = {"module": (mlflow, None), "run": (run, None), "client": (client, run.info.run_id)}
        where, run_id = given[how]
        trackers.log(CHECKED, where, run_id=run_id)
        trackers.log(CHECKED, where, run_id=run_id)
        with pytest.raises(UsageError, match="another answer") as caught:
            trackers.log(SMALL, where, run_id=run_id)
    assert "`autobatch/batch_size` is 32, now 8" in caught.value.facts
    data = client.get_run(run.info.run_id).data
    assert data.params["autobatch/batch_size"] == "32"
    assert data.metrics["autobatch/samples_per_second"] == 783
    assert "Keep batch size 32" in data.tags["autobatch/report"]
    history = client.get_metric_history(run.info.run_id, "autobatch/trials/peak_bytes")
    assert {one.step for one in history} == {32, 64, 128, 256}


@pytest.mark.parametrize("thing", [None, 3, "run", object(), print, SimpleNamespace(config={}, summary={})])
def test_anything_else_is_refused_with_what_was_expected(thing: object) -> None:
    with pytest.raises(UsageError) as caught:
        trackers.log(SMALL, thing)
    assert type(thing).__name__ in caught.value.message
    assert [fact.partition(":")[0] for fact in caught.value.facts] == [
        "MLflow",
        "Weights & Biases",
        "TensorBoard",
    ]


def test_a_client_needs_the_id_of_its_run() -> None:
    client = SimpleNamespace(log_batch=print, log_param=print, get_run=print)
    with pytest.raises(UsageError, match="no run"):
        trackers.log(SMALL, client)


def test_what_was_not_found_is_left_out() -> None:
    assert "autobatch/learning_rate" not in trackers.parameters(SMALL)
    assert "autobatch/critical_batch_size" not in trackers.figures(SMALL)
    unmeasured = replace(SMALL.trials[0], samples_per_second=nan)
    found = replace(SMALL, trials=(unmeasured, *SMALL.trials[1:]))
    assert "autobatch/samples_per_second" not in trackers.figures(found)
    assert trackers.curves(found) == []


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recommendations(texts=HOSTILE, floats=ANY_FLOATS))
def test_any_answer_can_be_logged_and_steers_nothing(found: Recommendation) -> None:
    """huggingface/transformers 21950; ultralytics/hub 966; modelscope/ms-swift 2209."""
    run = WandbRun()
    trackers.log(found, run)
    for name, value in (*run.config.values.items(), *run.summary.items()):
        assert name.startswith("autobatch/")
        assert not (isinstance(value, str) and steers(value))
        assert isinstance(value, str) or isfinite(value)
    passed = {trial.batch_size for trial in found.trials if trial.outcome is Outcome.OK}
    assert {size for _, size, _ in trackers.curves(found)} <= passed


def test_no_tracker_is_imported() -> None:
    program = (
        "import sys; from autobatch.integrations import trackers; "
        "print({'mlflow', 'wandb', 'tensorboard', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"

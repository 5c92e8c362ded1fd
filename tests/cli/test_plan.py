"""`autobatch plan`, through the real command."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.console import MODEL, autobatch, called, run

PLAN = (autobatch(), "plan", "model.py", "--on", "t4,2GiB")


def test_a_plan_as_text_as_json_and_its_errors(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    text, as_json, shape = run(
        tmp_path,
        (*PLAN, "--batch", "64"),
        (*PLAN, "--batch", "64", "--json", "--precision", "bf16", "--optimizer", "sgd"),
        (*PLAN, "--input-shape", "12", "--classes", "3", "--channels-last", "--json"),
    )
    assert text.status == 0, text.stderr
    assert "predicted: nothing was run on these devices" in text.stdout
    assert "64 takes" in text.stdout
    assert max(map(len, text.stdout.splitlines())) <= 80

    document = json.loads(as_json.stdout)
    assert as_json.status == 0
    assert document["predicted"] is True
    assert [one["device"]["name"] for one in document["fits"]] == ["t4", "2GiB"]
    for one in document["fits"]:
        assert 0 < one["low"] <= one["batch_size"] <= one["high"]
        assert (
            one["usage"]["allocated_bytes"] <= one["usage"]["reserved_bytes"] <= one["device"]["total_bytes"]
        )
    assert document["asked"]["smallest"] == "2GiB"
    assert document["workload"]["precision"] == "bf16"
    assert document["workload"]["optimizer"] == "SGD"
    assert document["fits"][0]["usage"]["parts"]["optimizer_bytes"] == 0

    unknown = called(tmp_path, "plan", "model.py", "--on", "rtx3909", "--json")
    assert unknown.status == 2
    error = json.loads(unknown.stdout)["error"]
    assert error["code"] == "unknown_device"
    assert "rtx3090" in error["facts"][0]
    for option, value in (("--precision", "fp8"), ("--optimizer", "newton")):
        ended = called(tmp_path, *PLAN[1:], option, value)
        assert ended.status == 2
        assert f"`{value}`" in ended.stderr
        assert "hint:" in ended.stderr
    missing = called(tmp_path, "plan", "nothing.py")
    assert missing.status == 1
    assert "does not exist" in missing.stderr
    assert json.loads(shape.stdout)["channels_last"] is True

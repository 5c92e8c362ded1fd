"""`autobatch compare`: two saved results, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

from autobatch.storage import result_files
from tests.cli.console import called
from tests.golden.test_text_report import CASES


def test_two_saved_results_are_compared(tmp_path: Path) -> None:
    for name in ("same_epochs_keep", "same_epochs_change"):
        result_files.save(CASES[name](), tmp_path / f"{name}.json")
    compare = ("compare", "same_epochs_keep.json", "same_epochs_change.json")
    plain, as_json = called(tmp_path, *compare), called(tmp_path, *compare, "--json")
    missing = called(tmp_path, *compare[:2], "none.json")
    assert plain.status == 0, plain.stderr
    assert "Batch size 32 → 64" in plain.stdout
    document = json.loads(as_json.stdout)
    assert (document["schema"], document["ok"]) == ("autobatch-comparison/1", True)
    assert document["batch_sizes"] == [32, 64]
    assert document["causes"]
    assert missing.status == 1
    assert "none.json" in missing.stderr

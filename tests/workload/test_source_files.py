"""Files of the user's code and of this package, digested by their content."""

from __future__ import annotations

from pathlib import Path

import jsonschema
from torch.nn import functional as F

from autobatch.workload import source_files
from autobatch.workload.object_digest import ObjectDigest


def test_any_change_to_the_code_of_the_package_is_another_digest(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "rule.py").write_text("TIE = 0.05")
    digests = [source_files.of_package(str(tmp_path))]
    (tmp_path / "rule.py").write_text("TIE = 0.10")
    digests.append(source_files.of_package(str(tmp_path)))
    (tmp_path / "inner" / "more.py").write_text("")
    digests.append(source_files.of_package(str(tmp_path)))
    (tmp_path / "inner" / "more.pyc").write_bytes(b"compiled")
    assert len(set(digests)) == 3
    assert source_files.of_package(str(tmp_path)) == digests[-1]


def test_code_of_a_library_counts_by_its_name_and_its_file() -> None:
    modules: set[str] = set()
    ObjectDigest(modules).add(jsonschema.Draft7Validator.check_schema).add(F.cross_entropy)
    assert "torch.nn.functional" in modules
    files = source_files.contents(modules)
    assert "jsonschema.validators" in files
    libraries = [name for name in files if name.startswith(("torch", "autobatch"))]
    assert [name for name in libraries if not name.startswith("autobatch.examples")] == []

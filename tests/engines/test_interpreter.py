"""A program starts in any folder, whatever the files in it are called."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from autobatch.engines.interpreter import python_command

PROGRAM = (
    "import json, random, autobatch; print(json.dumps([random.__file__, autobatch.__file__, sys.argv[1:]]))"
)


def test_modules_of_the_current_folder_are_not_imported(tmp_path: Path) -> None:
    for name in ("random", "json", "autobatch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(3)", encoding="utf-8")
    ended = subprocess.run(
        python_command(PROGRAM, "a", "b"), cwd=tmp_path, capture_output=True, check=True, env={}
    )
    random_file, package_file, arguments = json.loads(ended.stdout)
    assert tmp_path not in Path(random_file).parents
    assert Path(package_file).parts[-2:] == ("autobatch", "__init__.py")
    assert arguments == ["a", "b"]

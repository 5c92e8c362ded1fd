"""Target files, written and read."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from autobatch.records.errors import AutobatchError
from autobatch.workload.target import load_parts

HEAD = "import torch\nfrom torch import nn\nfrom torch.utils.data import DataLoader\n"


def model_of(folder: Path, source: str, target: str = "net_file.py") -> nn.Module:
    (folder / "net_file.py").write_text(HEAD + source)
    return load_parts(target).make_model()


def refusal(folder: Path, source: str, target: str = "net_file.py") -> AutobatchError:
    (folder / "net_file.py").write_text(HEAD + source)
    with pytest.raises(AutobatchError) as caught:
        load_parts(target).make_model()
    assert target.partition(":")[0] in caught.value.message or "()" in caught.value.message
    return caught.value

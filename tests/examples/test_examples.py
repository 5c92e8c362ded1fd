"""The examples build the documented data and models, split without overlap, and learn."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from autobatch.examples import charlm, digits_cnn

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = pytest.mark.parametrize("example", [digits_cnn, charlm], ids=lambda module: module.__name__)


def samples(dataset) -> Counter[bytes]:
    """How often each sample is in a data set, input and target together."""
    return Counter(b"".join(part.numpy().tobytes() for part in sample) for sample in dataset)


def first_batch(example: ModuleType, size: int) -> tuple[Tensor, Tensor]:
    return next(iter(DataLoader(example.build_dataset(), batch_size=size)))


def test_digits_are_the_whole_data_set_as_images_from_0_to_1():
    train, val = digits_cnn.build_dataset(), digits_cnn.build_val_dataset()
    assert (len(train), len(val)) == (1437, 360)
    image, digit = train[0]
    assert (image.shape, image.dtype) == ((1, 8, 8), torch.float32)
    assert (digit.shape, digit.dtype) == ((), torch.int64)
    images, digits = train.tensors
    assert (images.min(), images.max()) == (0, 1)
    assert digits.unique().tolist() == list(range(10))


def test_charlm_targets_are_the_inputs_one_character_on():
    train, val = charlm.build_dataset(), charlm.build_val_dataset()
    assert 0.95 * charlm.CHARACTERS < (len(train) + len(val)) * (charlm.CONTEXT + 1) <= charlm.CHARACTERS
    assert len(val) == round(0.1 * (len(train) + len(val)))
    codes, following = train[0]
    assert codes.shape == following.shape == (charlm.CONTEXT,)
    assert codes.dtype == following.dtype == torch.int64
    assert torch.equal(codes[1:], following[:-1])
    assert 0 <= train.codes.min() <= train.codes.max() < charlm.VOCABULARY


@EXAMPLES
def test_the_split_is_the_same_every_time_and_leaves_the_random_state_alone(example: ModuleType):
    before = torch.random.get_rng_state()
    first, second = example.build_dataset(), example.build_dataset()
    assert all(
        torch.equal(a, b)
        for index in range(len(first))
        for a, b in zip(first[index], second[index], strict=True)
    )
    assert torch.equal(torch.random.get_rng_state(), before)


@EXAMPLES
def test_train_and_validation_share_no_sample(example: ModuleType):
    train, val = samples(example.build_dataset()), samples(example.build_val_dataset())
    assert not train & val


@pytest.mark.parametrize(
    ("example", "shape"), [(digits_cnn, (5, 10)), (charlm, (5, charlm.CONTEXT, charlm.VOCABULARY))]
)
def test_the_model_takes_a_batch_and_the_loss_is_one_finite_number(example, shape):
    torch.manual_seed(0)
    inputs, targets = first_batch(example, 5)
    outputs = example.build_model()(inputs)
    assert outputs.shape == shape
    loss = example.loss_fn(outputs, targets)
    assert loss.shape == ()
    assert loss.isfinite()


def test_charlm_sees_only_the_past():
    torch.manual_seed(0)
    model = charlm.build_model().eval()
    codes, _ = first_batch(charlm, 1)
    changed = codes.clone()
    changed[0, 50] = (changed[0, 50] + 1) % charlm.VOCABULARY
    with torch.no_grad():
        before, after = model(codes), model(changed)
    torch.testing.assert_close(before[:, :50], after[:, :50])
    assert not torch.allclose(before[:, 50], after[:, 50])


@pytest.mark.parametrize(
    "example", [digits_cnn, pytest.param(charlm, marks=pytest.mark.slow)], ids=lambda module: module.__name__
)
def test_the_loss_falls(example: ModuleType):
    torch.manual_seed(0)
    model = example.build_model()
    optimizer = example.make_optimizer(model.parameters())
    losses = []
    for inputs, targets in DataLoader(example.build_dataset(), batch_size=example.batch_size):
        optimizer.zero_grad()
        loss = example.loss_fn(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if len(losses) == 40:
            break
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_charlm_reads_sources_in_order_and_skips_other_files(tmp_path: Path):
    (tmp_path / "b.py").write_text("b" * 3000)
    (tmp_path / "a.py").write_text("é" + "a" * 10)
    (tmp_path / "aa.py").write_bytes(b"\xff\xfe")
    (tmp_path / "notes.txt").write_text("no source")
    assert charlm._read_sources(tmp_path, 2000) == b"?" + b"a" * 10 + b"b" * 1989


def test_charlm_without_sources_of_the_library_says_so(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no sources of its standard library"):
        charlm._read_sources(tmp_path, 2000)


def test_digits_without_scikit_learn_name_what_to_install():
    program = "import sys; sys.modules['sklearn'] = None; import autobatch.examples.digits_cnn"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "pip install scikit-learn" in ended.stderr.splitlines()[-1]


@EXAMPLES
@pytest.mark.slow
def test_each_trains_as_a_program_at_a_given_batch_size(example: ModuleType):
    command = [sys.executable, "-m", example.__name__, "--batch-size", "512", "--epochs", "1"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "epoch 1: validation loss" in ended.stdout

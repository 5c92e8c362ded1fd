"""Random samples of a given shape."""

from __future__ import annotations

from autobatch.workload.synthetic_samples import SyntheticSamples


def test_synthetic_samples_are_all_of_one_size() -> None:
    samples = SyntheticSamples((5,), classes=None)
    samples.scan(seed=0)
    assert samples.sizes is None
    assert samples.largest(3, seed=0).shape == samples.repeated(3).shape == (3, 5)


def test_synthetic_samples() -> None:
    inputs, targets = SyntheticSamples((3, 8, 8), classes=10).batch(4, 0)
    assert inputs.shape == (4, 3, 8, 8)
    assert targets.shape == (4,)
    assert int(targets.max()) < 10
    assert SyntheticSamples((5,), classes=None).batch(2, 0).shape == (2, 5)

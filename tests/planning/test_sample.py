"""A data set from a single sample."""

from __future__ import annotations

from autobatch.planning.sample import as_dataset


class Array:
    def __init__(self, *shape: int) -> None:
        self.shape = shape


def test_one_sample_is_a_data_set_of_one() -> None:
    image, label, rows = Array(3, 8, 8), Array(), Array(3)
    assert as_dataset({"x": image}) == [{"x": image}]
    for sample in ((image, 5), (image, label), (image, Array(8)), (image, (rows,))):
        assert as_dataset(sample) == [sample]
    for dataset in ((image, rows), [image], None, image):
        assert as_dataset(dataset) is dataset

"""The report of a loss that depends on the rest of the batch: no law of noise is spoken of."""

from __future__ import annotations

import pytest

from autobatch.records.check import Check, CheckStatus, LossKind, Training
from autobatch.records.trial import Outcome
from autobatch.reports.text.details import statements
from tests import builders

TRAINING = Training(batch_size=32, learning_rate_factor=1.0, outcome=Outcome.OK, steps=40, seconds=2.0)


@pytest.mark.parametrize(("count", "words"), [(0, "0 trainings"), (1, "1 training"), (2, "2 trainings")])
def test_the_check_names_its_trainings_alone(count: int, words: str) -> None:
    check = Check(
        status=CheckStatus.PASSED if count > 1 else CheckStatus.NOT_RUN,
        loss_kind=LossKind.BATCH_DEPENDENT,
        trainings=(TRAINING,) * count,
    )
    (text,) = [s.text for s in statements(builders.recommendation(32, check=check)) if s.label == "check"]
    assert text == f"{words} alone, as the loss depends on the rest of the batch"

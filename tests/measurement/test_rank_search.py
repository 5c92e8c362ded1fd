"""A search of one process; tests/distributed has those of several ranks."""

from __future__ import annotations

import pytest

from autobatch.engines.messages import Recipe
from autobatch.measurement import rank_search
from autobatch.records.errors import UsageError
from autobatch.records.limits import Limits


def test_one_process_has_no_ranks_to_share_among() -> None:
    recipe, limits = Recipe(target="nothing.py"), Limits(sizes_per_rank=True)
    with pytest.raises(UsageError, match="needs several ranks") as raised:
        rank_search.search(recipe, limits, device=None, fresh=False, meeting=None, first_key=None)
    assert raised.value.code == "one_rank"

"""timm's published runs on an RTX 3090: the largest batch size of each model, and a draw of models."""

from __future__ import annotations

import csv
import json
import random
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

TABLE = "benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv"
CANDIDATES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
# The rules were tuned on these models, and on all that an earlier run scored.
_FIRST_TUNED = ("resnet101", "vit_base_patch16_224", "convnext_tiny", "resnet50", "resnet18")
_SCORED_BEFORE = Path(__file__).parent / "results" / "plan_timm_tuned.json"


@dataclass(frozen=True)
class Row:
    """A model as timm trained it, its parameters in millions, and the largest candidate that trained."""

    model: str
    image_size: int
    batch_size: int
    millions: float

    @property
    def family(self) -> str:
        match = re.match(r"(tf_)?[a-z]+", self.model)
        return match[0] if match else self.model

    @property
    def next_size(self) -> int:
        return CANDIDATES[CANDIDATES.index(self.batch_size) + 1]

    def verdict(self, size: float) -> str:
        """Where a predicted size lies: the true size is between the row's and the next candidate."""
        return "under" if size < self.batch_size else "over" if size >= self.next_size else "inside"


def tuned() -> frozenset[str]:
    """The names of the models that rules and constants were tuned on."""
    return frozenset(_FIRST_TUNED) | frozenset(json.loads(_SCORED_BEFORE.read_text())["models"])


def read(folder: Path) -> list[Row]:
    """The rows whose true size has two bounds, of models that nothing was tuned on."""
    with (folder / TABLE).open() as file:
        rows = [
            Row(
                line["model"],
                int(line["train_img_size"]),
                int(line["train_batch_size"]),
                float(line["param_count"]),
            )
            for line in csv.DictReader(file)
        ]
    left_out = tuned()
    return [row for row in rows if row.batch_size < CANDIDATES[-1] and row.model not in left_out]


def draw(rows: list[Row], count: int, seed: int) -> list[Row]:
    """`count` rows: a row of each family in turn, in an order that the seed decides."""
    families: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        families[row.family].append(row)
    chance = random.Random(seed)
    decks = [families[name] for name in sorted(families)]
    for deck in decks:
        chance.shuffle(deck)
    chance.shuffle(decks)
    drawn: list[Row] = []
    while len(drawn) < count and any(decks):
        drawn += [deck.pop() for deck in decks if deck]
    return drawn[:count]

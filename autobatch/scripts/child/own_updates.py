"""Finds scripts that update their parameters by themselves: they change without an optimizer's step."""

from __future__ import annotations

from typing import Any

import torch

# Backward passes without a step of an optimizer after which a change counts.
_SUSPICIOUS = 6
_MOST_NODES, _MOST_LEAVES, _MOST_ENTRIES = 20_000, 8, 256


class OwnUpdates:
    """Looks at some parameters of the losses before each backward pass."""

    def __init__(self) -> None:
        self.backwards = 0
        self._digest: float | None = None
        self._leaves: list[torch.Tensor] = []

    def seen(self, loss: torch.Tensor) -> bool:
        """Count a backward pass; True once parameters have changed between such passes."""
        self.backwards += 1
        if self.backwards == 2:
            self._leaves = [p for p in _leaves(loss) if p.is_floating_point()][:_MOST_LEAVES]
        if not self._leaves:
            return False
        digest = sum(float(p.detach().flatten()[:_MOST_ENTRIES].double().sum()) for p in self._leaves)
        changed = self._digest is not None and digest != self._digest
        self._digest = digest
        return changed and self.backwards >= _SUSPICIOUS


def _leaves(loss: torch.Tensor) -> list[torch.Tensor]:
    """Parameters that a loss depends on, by its graph."""
    leaves: list[torch.Tensor] = []
    queue: list[Any] = [loss.grad_fn]
    seen: set[Any] = set()
    while queue and len(seen) < _MOST_NODES:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            leaves.append(variable)
        queue += [parent for parent, _ in node.next_functions]
    return leaves

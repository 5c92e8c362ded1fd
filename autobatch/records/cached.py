"""Answers in the cache, as a listing."""

from __future__ import annotations

from dataclasses import dataclass

from autobatch.records.recommendation import Recommendation


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """An answer in the cache, and the size of its file."""

    path: str
    size_bytes: int
    answer: Recommendation


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheListing:
    """The answers in the cache, newest first; `damaged` gives the reason for each ignored file."""

    folder: str
    entries: tuple[CacheEntry, ...]
    damaged: tuple[str, ...] = ()

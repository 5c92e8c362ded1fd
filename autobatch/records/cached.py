"""Answers in the cache, as a listing, and the files that an answer depends on."""

from __future__ import annotations

from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesRead:
    """The files that a session read while it was opened, by absolute path.

    `sources`: SHA-256 of the user's imported files. `files`: size, times and inode of every other file, empty
    for a missing one. `folders`: digest of the names in each folder that was listed, of `import_folders` only
    those that an import may look for. `unseen`: why other reads may have escaped; empty where none can have.
    """

    sources: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    import_folders: dict[str, str] = field(default_factory=dict)
    unseen: str = ""

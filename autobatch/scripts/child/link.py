"""The line to the measuring process: JSON, one object a line, over a Unix socket."""

from __future__ import annotations

import json
import os
import socket
from typing import Any


class Link:
    """A connection that belongs to one process: a fork of it must not use it."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self._pid = os.getpid()

    @property
    def is_mine(self) -> bool:
        return os.getpid() == self._pid

    def send(self, event: str, **facts: Any) -> None:
        """Send one event; nothing where the other side is gone."""
        line = json.dumps({"event": event, "pid": self._pid, **facts}, default=str)
        try:
            self._socket.sendall(line.encode() + b"\n")
        except OSError:
            return

    def receive(self) -> dict[str, Any]:
        """Wait for the next command. A measuring process that is gone wants this process to end."""
        try:
            line = self._lines.readline()
        except OSError:
            line = ""
        return dict(json.loads(line)) if line else {"do": "end"}

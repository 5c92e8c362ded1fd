"""The messages of ranks: the leader's orders, every rank's answers, and the end."""

from __future__ import annotations

import msgspec

from autobatch.engines import messages

# Keys of the store. `FAILED` is put by the first rank whose part of an order has failed.
ROSTER = "roster"


def order_key(number: int) -> str:
    return f"order/{number}"


def answer_key(number: int, rank: int) -> str:
    return f"answer/{number}/{rank}"


def failed_key(number: int) -> str:
    return f"failed/{number}"


def hello_key(rank: int) -> str:
    return f"hello/{rank}"


def bye_key(rank: int) -> str:
    return f"bye/{rank}"


class Hello(msgspec.Struct, frozen=True):
    """A rank has come. `machine`: the name of its machine."""

    machine: str


class Place(msgspec.Struct, frozen=True):
    """The place of a rank among the ranks of its machine."""

    local_rank: int
    local_ranks: int


class Roster(msgspec.Struct, frozen=True):
    """All ranks have come: the place of each, and the address of the leader's store."""

    places: tuple[Place, ...]
    host: str
    port: int


class Begin(msgspec.Struct, frozen=True, tag=True):
    """Start the session. Answered by messages.Opened or messages.Refused."""


Asked = Begin | messages.TryOut | messages.TimeRound | messages.Train | messages.TimeLoader


class Order(msgspec.Struct, frozen=True, tag=True):
    """Do this, in the session of this number; a rank that has another one starts it anew.

    `worker`: the same for the worker that the session belongs to.
    """

    session: int
    worker: int
    asked: Asked


class End(msgspec.Struct, frozen=True, tag=True):
    """There are no more orders: the answer as JSON, or the error that every rank raises."""

    answer: str = ""
    error: messages.Refused | None = None


class Answer(msgspec.Struct, frozen=True):
    """A rank's reply, and what it has spent on measuring and compiling so far."""

    reply: messages.Reply
    busy_seconds: float
    compile_seconds: float


_encoder = msgspec.json.Encoder()
encode = _encoder.encode
decode_message = msgspec.json.Decoder(Order | End).decode
decode_answer = msgspec.json.Decoder(Answer).decode
decode_hello = msgspec.json.Decoder(Hello).decode
decode_roster = msgspec.json.Decoder(Roster).decode

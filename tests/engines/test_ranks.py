"""Ranks that agree: the real leader and members on simulated devices, and what is made of their answers."""

from __future__ import annotations

import socket
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch.decision.constants import PROBE_SHARE
from autobatch.decision.critical_batch import scaled_learning_rate
from autobatch.decision.recommender import recommend
from autobatch.devices.oom import Cause
from autobatch.engines import messages, worker_failures
from autobatch.engines.ranks import merging, rank_messages
from autobatch.engines.ranks.leader import GRACE_SECONDS, follow, lead, slack_seconds
from autobatch.engines.ranks.membership import Meeting, of_environment
from autobatch.engines.ranks.rendezvous import met, places
from autobatch.measurement.budget import Budget
from autobatch.measurement.check import GeneralizationCheck
from autobatch.measurement.climb import Climb
from autobatch.records.check import Check, CheckStatus
from autobatch.records.errors import AutobatchError, TargetError, UsageError
from autobatch.records.interruption import Interrupted
from autobatch.records.limits import Limits, Objective
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Curve, LimitedBy, Outcome
from autobatch.storage import codec
from tests.simulated import MIB, Machine
from tests.simulated_ranks import RankView, alike, ranked, tried
from tests.strategies import recommendations

pytestmark = pytest.mark.usefixtures("quick_collections")
LIMITS = Limits(budget_seconds=1e6)
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


def climb(machines: list[Machine], limits: Limits = LIMITS) -> Curve:
    engine, _, _ = ranked(machines, limits)
    return Climb(engine, limits).run()


def test_the_rank_with_the_least_memory_sets_the_ceiling() -> None:
    machines = alike(Machine(), 4)
    machines[2] = replace(machines[2], total_bytes=500 * MIB)
    curve = climb(machines)
    assert curve.world_size == 4
    assert curve.ceiling.batch_size == machines[2].true_ceiling < machines[0].true_ceiling
    assert curve.ceiling.limited_by is LimitedBy.MEMORY
    assert curve.device.limit_bytes == 500 * MIB
    assert "rank 2" in curve.device.limit_source
    failed = [trial for trial in curve.trials if trial.outcome is Outcome.OUT_OF_MEMORY]
    assert failed
    assert all("on rank 2" in trial.detail for trial in failed)


def test_the_slowest_rank_sets_the_time() -> None:
    machines = alike(Machine(dataset_size=64), 3)
    slow = replace(machines[1], step_seconds=lambda size: 3 * (0.01 + 0.0001 * size))
    curve = climb([machines[0], slow, machines[2]])
    for trial in curve.trials:
        assert max(trial.step_seconds) == pytest.approx(slow.step_seconds(trial.batch_size))


def test_no_rank_gets_more_than_its_share_of_the_data_set() -> None:
    curve = climb(alike(Machine(dataset_size=100), 4))
    assert curve.ceiling.batch_size == 25
    assert curve.ceiling.limited_by is LimitedBy.DATASET
    assert {trial.batch_size: trial.steps_per_epoch for trial in curve.trials}[8] == 4
    assert curve.workload.dataset_size == 100


@pytest.mark.parametrize("rank", [0, 3])
def test_a_rank_that_crashes_ends_the_trial_on_all(rank: int) -> None:
    machines = alike(Machine(dataset_size=64), 4)
    machines[rank] = replace(machines[rank], crashes={8: 1})
    engine, _, engines = ranked(machines, LIMITS)
    first = engine.try_out(8, 10.0, 3)
    assert first.outcome is Outcome.CRASHED
    assert f"on rank {rank}" in first.detail
    before = [len(one.groups) for one in engines]
    assert engine.try_out(8, 10.0, 3).outcome is Outcome.OK
    assert [len(one.groups) for one in engines] == [count + 1 for count in before]
    prefixes = {one.groups[-1].prefix for one in engines if one.groups[-1] is not None}
    assert len(prefixes) == 1


def test_a_rank_that_does_not_answer_is_named_and_waited_for_no_longer_than_told() -> None:
    """mosaicml/composer 2117, 3510: ranks wait for each other for ever."""
    engine, store, _ = ranked(alike(Machine(), 4), LIMITS)
    engine.open()
    store.silent[2] = 3
    engine.try_out(8, 10.0, 3)
    begin = store.now_seconds
    with pytest.raises(AutobatchError, match="1 of 4 ranks do not answer") as told:
        engine.try_out(16, 10.0, 3)
    assert told.value.code == "rank_lost"
    assert "2" in told.value.facts[0]
    assert store.now_seconds - begin <= 10.0 + slack_seconds(LIMITS, starts=False) + 1.0


def test_a_rank_that_dies_with_its_session_is_waited_for_briefly() -> None:
    """The session of another rank has noticed: then all others have to say so soon."""
    machines = alike(Machine(), 4)
    machines[1] = replace(machines[1], crashes={16: 9})
    engine, store, _ = ranked(machines, LIMITS)
    engine.try_out(8, 10.0, 3)
    store.silent[2] = 2
    begin = store.now_seconds
    with pytest.raises(AutobatchError, match="1 of 4 ranks do not answer"):
        engine.try_out(16, 10.0, 3)
    assert store.now_seconds - begin <= 2 * GRACE_SECONDS


def test_what_one_rank_alone_measures_no_other_is_asked_for() -> None:
    engine, store, engines = ranked(alike(Machine(), 3), LIMITS)
    engine.try_out(8, 10.0, 3)
    asked = store.orders
    engine.trace_memory()
    command = messages.MeasureNoise(
        batch_size=8,
        learning_rate_factor=1.0,
        seconds=5.0,
        burn_in_seconds=1.0,
        most_samples=640,
        largest_chunk=8,
    )
    engine.measure_noise(command)
    assert store.orders == asked
    assert [len(one.noise_commands) for one in engines] == [1, 0, 0]
    engine.try_out(8, 10.0, 3)
    assert all(one.groups[-1] is not None for one in engines)


def answer(ranks: int, critical: float = 400.0) -> Recommendation:
    """What ranks come to whose steps cost no communication."""
    machine = Machine(
        dataset_size=1 << 16,
        step_seconds=lambda size: 0.001 + 0.00001 * size,
        current_batch_size=max(1, 32 // ranks),
        noise_scale=critical / 2,
        critical_batch_size=critical / ranks,
    )
    limits = Limits(budget_seconds=200.0)
    engine, _, _ = ranked(alike(machine, ranks), limits)
    budget = Budget.of(limits, engine)
    curve = Climb(engine, limits, budget=budget.stage(PROBE_SHARE)).run()
    return recommend(curve, GeneralizationCheck(engine, curve, limits, budget).run(), limits)


def test_with_more_ranks_the_same_critical_batch_size_asks_for_smaller_parts() -> None:
    found = {ranks: answer(ranks) for ranks in (1, 4, 16)}
    for ranks, one in found.items():
        assert one.world_size == ranks
        assert one.global_batch_size == ranks * one.batch_size
        assert one.check is not None
        assert one.check.critical_batch_size == pytest.approx(400, rel=0.35)
    assert found[1].batch_size > found[4].batch_size > found[16].batch_size


def test_the_learning_rate_follows_the_global_batch() -> None:
    check = Check(
        status=CheckStatus.NOISE_ONLY,
        batch_size=8,
        noise_scale=200.0,
        critical_batch_size=400.0,
        interval=(200.0, 800.0),
        log_sd=0.5,
    )
    curve = climb(alike(Machine(dataset_size=4096, current_batch_size=8), 4))
    curve = replace(curve, workload=replace(curve.workload, optimizer="AdamW"))
    found = recommend(curve, check, replace(LIMITS, objective=Objective.TIME_TO_LOSS))
    assert found.global_batch_size != 32
    assert found.learning_rate_factor == pytest.approx(
        scaled_learning_rate(1.0, 32, found.global_batch_size, 400.0, 0.5)
    )
    assert found.check is not None
    assert found.check.critical_batch_size == pytest.approx(400.0)


def test_a_global_batch_is_shared_out_exactly() -> None:
    """catalyst-team/catalyst 1023: the total batch size changes with the number of GPUs."""
    limits = replace(LIMITS, global_batch=96)
    curve = climb(alike(Machine(), 3), replace(limits, global_batch=32))
    found = recommend(curve, None, limits)
    assert found.batch_size * found.accumulation_steps * 3 == found.global_batch_size == 96
    with pytest.raises(UsageError, match="can't be shared out to 3 ranks"):
        recommend(curve, None, replace(limits, global_batch=97))


RANKS = 3
OOM = (Outcome.OUT_OF_MEMORY, Cause.OUT_OF_MEMORY)
PEER = (Outcome.FAILED, Cause.PEER)


@pytest.mark.parametrize(
    ("said", "outcome", "where"),
    [
        ([(Outcome.OK, None), OOM, PEER], Outcome.OUT_OF_MEMORY, "on rank 1"),
        ([PEER, PEER, (Outcome.CRASHED, None)], Outcome.CRASHED, "on rank 2"),
        ([(Outcome.TIMEOUT, None), OOM, (Outcome.TIMEOUT, None)], Outcome.OUT_OF_MEMORY, "on rank 1"),
        ([PEER, (Outcome.TIMEOUT, None), (Outcome.TIMEOUT, None)], Outcome.TIMEOUT, "on ranks 1 and 2"),
        ([PEER, PEER, PEER], Outcome.CRASHED, "lost each other"),
        ([OOM, OOM, OOM], Outcome.OUT_OF_MEMORY, "why"),
    ],
)
def test_the_rank_that_failed_first_by_itself_is_the_reason(
    said: list[tuple[Outcome, Cause | None]], outcome: Outcome, where: str
) -> None:
    found = merging.tried([tried(*one, detail="why") for one in said])
    assert found.outcome is outcome
    assert where in found.detail


@given(
    st.lists(st.tuples(st.integers(1, 10**9), st.floats(1e-6, 10), st.booleans()), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_the_worst_of_all_ranks_counts_in_any_order(
    said: list[tuple[int, float, bool]], random: object
) -> None:
    replies = [
        msgspec.structs.replace(tried(), peak_bytes=peak, step_seconds=seconds, finite=finite)
        for peak, seconds, finite in said
    ]
    found = merging.tried(replies)
    shuffled = list(replies)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert merging.tried(shuffled) == found
    assert found.peak_bytes == max(peak for peak, _, _ in said)
    assert found.step_seconds == max(seconds for _, seconds, _ in said)
    assert found.finite is all(finite for _, _, finite in said)


def test_a_refusal_of_its_own_comes_before_one_because_of_another_rank() -> None:
    own = messages.Refused.of(TargetError("no data", code="no_dataset"))
    waited = messages.Refused.of(worker_failures.rank_failed("connection closed"))
    error = merging.refusal([waited, own, waited])
    assert error is not None
    assert (error.code, error.facts) == ("no_dataset", ("on rank 1",))
    assert merging.refusal([tried()]) is None
    alone = merging.refusal([waited, waited])
    assert alone is not None
    assert alone.code == worker_failures.RANK_FAILED


def test_ranks_that_train_other_things_are_refused() -> None:
    engine, _, _ = ranked(alike(Machine(), 2), LIMITS)
    opened = engine.open()
    first = messages.Opened(device=opened.device, workload=opened.workload, torch="")
    other = msgspec.structs.replace(first, workload=replace(first.workload, parameters=7))
    with pytest.raises(TargetError, match="don't train the same") as told:
        merging.opened([first, other])
    assert "rank 1" in told.value.facts[1]


class Recorded:
    """A store that hands one message out, whatever is asked for."""

    def __init__(self, message: bytes | None) -> None:
        self._message = message
        self.put_keys: list[str] = []

    def put(self, key: str, message: bytes) -> None:
        self.put_keys.append(key)

    def get(self, keys: list[str], timeout_seconds: float, *, unless: str = "") -> dict[str, bytes]:
        return {} if self._message is None else {keys[0]: self._message}

    def has(self, key: str) -> bool:
        return False


def followed(message: bytes | None) -> Recommendation:
    _, store, _ = ranked(alike(Machine(), 2), LIMITS)
    member = store.members[1]
    member.transport = Recorded(message)
    try:
        return follow(member, LIMITS)
    finally:
        heard = [rank_messages.bye_key(1)] if message is not None else []
        assert member.transport.put_keys == heard


@settings(max_examples=20)
@given(recommendations())
def test_every_rank_gets_the_same_answer(found: Recommendation) -> None:
    engine, store, _ = ranked(alike(Machine(), 2), LIMITS)
    led = lead(engine, lambda ranks: found)
    assert led == followed(store._messages[rank_messages.order_key(1)]) == found


def test_every_rank_raises_the_same_error() -> None:
    def fail(ranks: object) -> Recommendation:
        raise TargetError("it fails", code="step_fails", facts=("a",), hint="b")

    engine, store, _ = ranked(alike(Machine(), 2), LIMITS)
    with pytest.raises(TargetError, match="it fails"):
        lead(engine, fail)
    with pytest.raises(TargetError, match="it fails") as told:
        followed(store._messages[rank_messages.order_key(1)])
    assert (told.value.code, told.value.facts, told.value.hint) == ("step_fails", ("a",), "b")


def test_an_interrupt_of_the_leader_is_one_of_every_rank() -> None:
    def stop(ranks: object) -> Recommendation:
        raise KeyboardInterrupt

    engine, store, _ = ranked(alike(Machine(), 2), LIMITS)
    with pytest.raises(KeyboardInterrupt):
        lead(engine, stop)
    with pytest.raises(Interrupted):
        followed(store._messages[rank_messages.order_key(1)])


def test_a_leader_that_says_nothing_is_an_error() -> None:
    with pytest.raises(AutobatchError, match="1 of 2 ranks do not answer"):
        followed(None)


def test_an_interrupted_rank_says_so_before_it_ends() -> None:
    _, store, engines = ranked(alike(Machine(), 2), LIMITS)
    member = store.members[1]

    def interrupted(*_: object, **__: object) -> messages.Tried:
        raise KeyboardInterrupt

    engines[1].try_out = interrupted  # type: ignore[method-assign]
    asked = rank_messages.Order(
        session=1, worker=0, asked=messages.TryOut(batch_size=8, seconds=1.0, steps=3)
    )
    with pytest.raises(KeyboardInterrupt):
        member.answer(1, asked)
    said = rank_messages.decode_answer(store._messages[rank_messages.answer_key(1, 1)]).reply
    assert isinstance(said, messages.Refused)
    assert said.code == "interrupted"
    assert RankView(store, engines[1]).has(rank_messages.failed_key(1))


def test_torchruns_variables_name_the_ranks() -> None:
    assert of_environment(TORCHRUN) == Meeting(1, 4, in_group=False)
    assert of_environment({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}) is None
    assert of_environment({}) is None
    for wrong in ({"RANK": "4"}, {"RANK": "x"}, {"WORLD_SIZE": "0"}):
        with pytest.raises(UsageError, match="don't name a rank"):
            of_environment({**TORCHRUN, **wrong})


def test_without_a_first_rank_there_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        variables = {**TORCHRUN, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(one.getsockname()[1])}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with (
            pytest.raises(AutobatchError, match="can't reach the first one") as told,
            met(Meeting(1, 4, False), 1),
        ):
            pytest.fail("nobody is there")
    assert told.value.code == "rank_lost"


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=9))
def test_ranks_of_a_machine_are_numbered_in_their_order(machines: list[str]) -> None:
    found = places(machines)
    for name in set(machines):
        own = [place for place, machine in zip(found, machines, strict=True) if machine == name]
        assert [place.local_rank for place in own] == list(range(len(own)))
        assert {place.local_ranks for place in own} == {len(own)}


def test_an_answer_of_ranks_survives_its_file() -> None:
    found = answer(4)
    assert codec.parse(codec.render(found)) == found

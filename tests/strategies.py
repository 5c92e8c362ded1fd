"""Hypothesis strategies for records: any value that their types allow, and answers that hold together."""

from __future__ import annotations

from statistics import median

from hypothesis import strategies as st

from autobatch.records.check import Check, CheckStatus, Evaluation, NoisePoint, Training, Veto
from autobatch.records.device import Device, MemoryUser
from autobatch.records.limits import Limits, Objective
from autobatch.records.recommendation import (
    Action,
    Alternative,
    AlternativeKind,
    AnswerLimit,
    Candidate,
    Comparison,
    Confidence,
    Decision,
    Environment,
    Recommendation,
    SameEpochs,
    StepTime,
)
from autobatch.records.scaling import DeviceCount, Scaling
from autobatch.records.trial import (
    Ceiling,
    Communication,
    Gain,
    LimitedBy,
    Loader,
    LoaderTiming,
    Outcome,
    SizesPerRank,
    Trial,
)
from autobatch.records.workload import Decay, SampleSizes, SequenceLengths, StepCount, Workload

COUNTS = st.integers(0, 2**63 - 1)
SIZES = st.integers(1, 10**9)
TEXTS = st.text(max_size=60)  # without lone surrogates, which JSON can't hold
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
ANY_FLOATS = st.floats()


def limits() -> st.SearchStrategy[Limits]:
    return st.builds(
        Limits,
        memory_bytes=st.none() | st.integers(1, 2**63 - 1),
        min_batch=st.integers(1, 64),
        max_batch=st.none() | st.integers(4096, 10**9),
        multiple_of=st.integers(1, 64),
        global_batch=st.none() | st.integers(4096, 10**9),
        budget_seconds=st.floats(0.001, 1e9),
        trial_timeout_seconds=st.floats(0.001, 1e9),
        objective=st.sampled_from(Objective),
        seed=COUNTS,
    )


def trainings(texts: st.SearchStrategy[str] = TEXTS) -> st.SearchStrategy[Training]:
    evaluations = st.builds(
        Evaluation,
        steps=COUNTS,
        seconds=FLOATS,
        losses=st.lists(FLOATS, min_size=1, max_size=3).map(tuple),
    )
    return st.builds(
        Training,
        batch_size=SIZES,
        learning_rate_factor=FLOATS,
        outcome=st.sampled_from(Outcome),
        steps=COUNTS,
        seconds=FLOATS,
        evaluations=st.lists(evaluations, max_size=3).map(tuple),
        detail=texts,
    )


def checks(texts: st.SearchStrategy[str] = TEXTS) -> st.SearchStrategy[Check]:
    sizes = st.floats(0.01, 1e9)
    statuses = st.sampled_from(CheckStatus)
    return st.builds(Check, status=statuses, detail=texts) | st.builds(
        Check,
        status=statuses,
        detail=texts,
        batch_size=SIZES,
        noise_scale=sizes,
        critical_batch_size=sizes,
        interval=st.tuples(sizes, st.none() | sizes),
        log_sd=sizes,
        noise_points=st.lists(
            st.builds(NoisePoint, samples_seen=sizes, batch_size=sizes, low=sizes), max_size=2
        ).map(tuple),
        held_out=texts,
        trainings=st.lists(trainings(texts), max_size=3).map(tuple),
        matched_loss=st.none() | FLOATS,
        vetoed=st.lists(st.builds(Veto, batch_size=SIZES, reason=texts), max_size=2).map(tuple),
    )


def candidates() -> st.SearchStrategy[Candidate]:
    positive = st.floats(0.01, 1e9)
    return st.builds(
        Candidate,
        batch_size=SIZES,
        relative_time=positive,
        accumulation_steps=st.integers(1, 64),
        learning_rate_factor=st.none() | positive,
        loss=st.none() | FLOATS,
        steps=st.none() | COUNTS,
        steps_to_loss=st.none() | positive,
        seconds_to_loss=st.none() | positive,
    )


def same_epochs(floats: st.SearchStrategy[float] = FLOATS) -> st.SearchStrategy[SameEpochs]:
    harms = st.none() | floats
    return st.builds(
        SameEpochs,
        batch_size=SIZES,
        harm=harms,
        harm_low=harms,
        harm_high=harms,
        speedup=floats,
        interval=st.just((1.0, 1.0)) | st.tuples(floats, floats),
        safe=st.booleans(),
    )


def alternatives(floats: st.SearchStrategy[float] = FLOATS) -> st.SearchStrategy[Alternative]:
    return st.builds(
        Alternative,
        kind=st.sampled_from(AlternativeKind),
        batch_size=SIZES,
        learning_rate_factor=st.none() | floats,
        epochs_ratio=floats,
        epochs=st.none() | COUNTS,
        speedup=floats,
        interval=st.tuples(floats, floats),
    )


def decisions(floats: st.SearchStrategy[float] = FLOATS) -> st.SearchStrategy[Decision]:
    return st.builds(
        Decision,
        action=st.sampled_from(Action),
        batch_size=SIZES,
        confidence=floats,
        level=st.sampled_from(Confidence),
    )


def schedules(texts: st.SearchStrategy[str] = TEXTS) -> st.SearchStrategy[tuple[StepCount, ...]]:
    return st.lists(st.builds(StepCount, name=texts, steps=COUNTS), max_size=2).map(tuple)


def comparisons() -> st.SearchStrategy[Comparison]:
    return st.builds(
        Comparison, batch_size=SIZES, relative_time=FLOATS, low=FLOATS, high=FLOATS, epochs_ratio=FLOATS
    )


def devices(texts: st.SearchStrategy[str] = TEXTS) -> st.SearchStrategy[Device]:
    memory_users = st.builds(MemoryUser, pid=COUNTS, name=texts, memory_bytes=st.none() | COUNTS)
    return st.builds(
        Device,
        kind=texts,
        index=COUNTS,
        name=texts,
        total_bytes=st.none() | COUNTS,
        free_bytes=st.none() | COUNTS,
        uuid=st.none() | texts,
        driver=st.none() | texts,
        threads=st.none() | COUNTS,
        limit_bytes=st.none() | COUNTS,
        limit_source=texts,
        utilisation=st.none() | FLOATS,
        memory_users=st.lists(memory_users, max_size=3).map(tuple),
        notes=st.lists(texts, max_size=3).map(tuple),
    )


def sample_sizes() -> st.SearchStrategy[SampleSizes]:
    lengths = st.builds(SequenceLengths, mean=FLOATS, median=FLOATS, longest=COUNTS)
    return st.builds(
        SampleSizes,
        scanned=COUNTS,
        smallest=COUNTS,
        median=FLOATS,
        largest=COUNTS,
        tokens=st.none() | lengths,
    )


def loaders(texts: st.SearchStrategy[str] = TEXTS) -> st.SearchStrategy[Loader]:
    timings = st.builds(LoaderTiming, workers=COUNTS, batch_seconds=st.none() | FLOATS, detail=texts)
    return st.builds(
        Loader,
        batch_size=SIZES,
        workers=COUNTS,
        step_seconds=FLOATS,
        timings=st.lists(timings, max_size=3).map(tuple),
        sufficient_workers=st.none() | COUNTS,
    )


def workloads(texts: st.SearchStrategy[str] = TEXTS) -> st.SearchStrategy[Workload]:
    return st.builds(
        Workload,
        target=texts,
        model=texts,
        parameters=COUNTS,
        loss=texts,
        optimizer=texts,
        dataset=texts,
        dataset_size=st.none() | COUNTS,
        batch_size=st.none() | SIZES,
        learning_rate=st.none() | FLOATS,
        decays=st.lists(st.builds(Decay, name=texts, value=FLOATS), max_size=2).map(tuple),
        epochs=st.none() | FLOATS,
        schedule=schedules(texts),
        synthetic=st.booleans(),
        sizes=st.none() | sample_sizes(),
        workers=st.none() | COUNTS,
        framework=texts,
        inferred=st.lists(texts, max_size=3).map(tuple),
    )


def trials(
    texts: st.SearchStrategy[str] = TEXTS, floats: st.SearchStrategy[float] = FLOATS
) -> st.SearchStrategy[Trial]:
    gains = st.builds(
        Gain, over=SIZES, ratio=floats, low=floats, high=floats, rounds=COUNTS, decided=st.booleans()
    )
    return st.builds(
        Trial,
        batch_size=SIZES,
        outcome=st.sampled_from(Outcome),
        step_seconds=st.lists(floats, max_size=4).map(tuple),
        samples_per_second=st.none() | floats,
        samples_per_second_interval=st.none() | st.tuples(floats, floats),
        steps_per_epoch=st.none() | COUNTS,
        epoch_seconds=st.none() | floats,
        load_seconds=st.none() | floats,
        peak_bytes=st.none() | COUNTS,
        reserved_bytes=st.none() | COUNTS,
        utilisation=st.none() | floats,
        samples=COUNTS,
        optimizer_steps=COUNTS,
        gain=st.none() | gains,
        phase=texts,
        detail=texts,
    )


def measured_trials() -> st.SearchStrategy[Trial]:
    """Trials that a search may give: any outcome, with plausible step times where it passed."""
    sizes = st.sampled_from([2**power for power in range(13)])
    seconds = st.floats(1e-4, 1.0)
    passed = st.builds(
        lambda size, steps, peak: Trial(
            batch_size=size,
            outcome=Outcome.OK,
            step_seconds=tuple(steps),
            samples_per_second=size / median(steps) if steps else None,
            peak_bytes=peak,
        ),
        sizes,
        st.lists(seconds, max_size=5),
        st.none() | st.integers(1, 10**6),
    )
    return passed | st.builds(Trial, batch_size=sizes, outcome=st.sampled_from(Outcome).filter(_is_failure))


def _is_failure(outcome: Outcome) -> bool:
    return outcome is not Outcome.OK


@st.composite
def recommendations(
    draw: st.DrawFn,
    texts: st.SearchStrategy[str] = TEXTS,
    floats: st.SearchStrategy[float] = FLOATS,
) -> Recommendation:
    """An answer whose batch size was measured and whose factors multiply; all else is arbitrary."""
    passed = st.builds(Trial, batch_size=SIZES, outcome=st.just(Outcome.OK), samples_per_second=floats)
    chosen = draw(passed)
    others = draw(st.lists(trials(texts, floats), max_size=6))
    place = draw(st.integers(0, len(others)))
    accumulation, world = draw(st.integers(1, 1000)), draw(st.integers(1, 1000))
    environment = st.builds(
        Environment,
        autobatch=texts,
        python=texts,
        torch=texts,
        platform=texts,
        cpu=texts,
        started_at=texts,
        elapsed_seconds=floats,
    )
    return Recommendation(
        batch_size=chosen.batch_size,
        accumulation_steps=accumulation,
        world_size=world,
        global_batch_size=chosen.batch_size * accumulation * world,
        learning_rate=draw(st.none() | floats),
        learning_rate_factor=draw(st.none() | floats),
        ceiling=draw(
            st.builds(
                Ceiling,
                batch_size=SIZES,
                limited_by=st.sampled_from(LimitedBy),
                verified=st.booleans(),
                detail=texts,
            )
        ),
        trials=(*others[:place], chosen, *others[place:]),
        check=draw(st.none() | checks(texts)),
        why=draw(texts),
        warnings=tuple(draw(st.lists(texts, max_size=3))),
        measured_warnings=tuple(draw(st.lists(texts, max_size=3))),
        candidates=tuple(draw(st.lists(candidates(), max_size=3))),
        decision=draw(st.none() | decisions(floats)),
        epochs=draw(st.none() | floats),
        same_epochs=tuple(draw(st.lists(same_epochs(floats), max_size=9))),
        alternatives=tuple(draw(st.lists(alternatives(floats), max_size=2))),
        current=draw(st.none() | comparisons()),
        runner_up=draw(st.none() | comparisons()),
        regret_bound=draw(st.none() | floats),
        limited_by=draw(st.none() | st.sampled_from(AnswerLimit)),
        communication=draw(
            st.none() | st.builds(Communication, batch_size=SIZES, step_seconds=floats, alone_seconds=floats)
        ),
        scaling=draw(
            st.none()
            | st.builds(
                Scaling,
                counts=st.lists(
                    st.builds(
                        DeviceCount,
                        devices=COUNTS,
                        batch_size=SIZES,
                        global_batch_size=COUNTS,
                        relative_time=floats,
                    ),
                    max_size=3,
                ).map(tuple),
                useful_devices=st.none() | COUNTS,
            )
        ),
        sizes_per_rank=draw(
            st.none()
            | st.builds(
                SizesPerRank,
                common_batch_size=SIZES,
                batch_sizes=st.lists(SIZES, max_size=3).map(tuple),
                step_seconds=st.none() | floats,
                common_step_seconds=st.none() | floats,
                detail=texts,
            )
        ),
        step_time=draw(
            st.none()
            | st.builds(StepTime, fixed_seconds=floats, sample_seconds=floats, relative_error=floats)
        ),
        tokens_per_second=draw(st.none() | floats),
        schedule=draw(schedules(texts)),
        loader=draw(st.none() | loaders(texts)),
        workload=draw(workloads(texts)),
        device=draw(devices(texts)),
        limits=draw(limits()),
        environment=draw(st.none() | environment),
        cached=draw(st.booleans()),
    )

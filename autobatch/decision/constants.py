"""Constants of decisions: each once, with its unit, its evidence and what it trades."""

from __future__ import annotations

# -- Measurement: search, memory forecast, budget, check and loader ----------------------------------------

# Doublings in a row without a gain that end the climb. Throughput may dip at a single size: in replayed
# searches one flat doubling lost over 10% of the throughput in 37 to 69%, two after several rounds in 0 to
# 5%. More cost time.
FLATS_TO_STOP = 2
# Samples. Below, fixed costs and thread start-up decide the step time (measured: flat from 2 to 4), and
# BatchNorm may need more samples. A higher value spends tries on small sizes, a lower one believes a
# plateau too early.
SMALL_BATCH_SIZE = 8
# Samples. Stands for an unknown current batch size: the usual default of training scripts and Keras.
USUAL_BATCH_SIZE = 32
# Share of a size, or of a memory limit. On a CPU this share of the limit stays free, since the peak of one
# size differs between processes: the largest sizes that survive differed by 8 to 12% (benchmarks/README.md,
# Ceilings). It costs 10% of the largest size and saves later processes from running out of memory. It is
# also the first step back of a search whose forecast was too high.
MEMORY_MARGIN = 0.1
# Ratio. Noise and allocators explain less: real peaks lay within 0.9 to 2 times the traced ones. A
# throughput that falls by this ratio means that memory spills over; a peak that differs by it, that another
# step was traced.
IMPLAUSIBLE_RATIO = 3.0
# Steps of a confirmation in a fresh process. An allocator reaches its peak within three steps of a
# training; a heap grows for more, so a CPU takes twice as many.
VERIFY_STEPS = 5
# Ratio to the best throughput. Sizes at or above it are timed again side by side, so that a change of the
# machine's speed can't choose among them. A lower ratio spends rounds on sizes that can't win.
CONTENDER_RATIO = 0.75
# Rounds in which sizes, or steps with and without communication, are timed in turns. The 90% interval of
# their median is about as wide as the noise of a single round; more rounds narrow it slowly.
SIDE_BY_SIDE_ROUNDS = 7
# Share of the budget for side-by-side rounds, and the same share for the data loader. More of it leaves
# less for the check, which decides more.
STAGE_SHARE = 0.1
# Ratio to the current batch size. Smaller sizes stay out of the side-by-side rounds. With 1 in its place,
# one of twenty answers on a busy machine was 16 at a current size of 32, by a quiet moment; a lower one
# costs rounds.
LEAST_CANDIDATE_RATIO = 0.25
# Share of the budget for the climb, the check having the rest. A larger share leaves trainings too short to
# compare, a smaller one leaves sizes unmeasured.
PROBE_SHARE = 0.65
# Share of the time left for training before the gradient noise is measured. The noise scale changes most in
# the first steps; more of it takes time from the short trainings.
BURN_IN_SHARE = 0.25
# Samples per second of training time that is left: a measurement of the noise takes so many of them. Three
# measurements that double stay below half of that time.
NOISE_SAMPLES_SHARE = 0.07
# Samples. Fewer give no noise scale and no loss on held-out samples worth comparing.
FEWEST_SAMPLES = 64
# Epochs at the reference size after which a short training ends. Longer ones are whole trainings.
MOST_EPOCHS = 10
# Steps of the slowest size that a short training needs to be compared: its curve needs four evaluations.
FEWEST_STEPS = 12
# Share of a short training that one evaluation takes at most: there are about thirty of them.
EVALUATION_SHARE = 0.01
# Samples held out at most. More narrow the comparison by less than the trainings' own spread.
MOST_HELD_OUT = 1024
# Parts of the held-out samples; their spread is the error of the comparison. Seven degrees of freedom.
HELD_OUT_PARTS = 8
# Seconds that a trial may take though the budget is over: one that began just before still runs a step.
SHORTEST_TRIAL_SECONDS = 0.1

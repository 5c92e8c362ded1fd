"""The constants that decisions depend on, each once: unit, evidence, and the trade-off.

`python benchmarks/count_constants.py` counts them; `python benchmarks/rules.py` shows what rules are worth.
"""

from __future__ import annotations

# --- When two sizes are equally good ------------------------------------------------------------------------

# Ratio minus 1. Throughputs, losses and expected times that differ by less count as equal: ties go to the
# current size or the smaller one. Seeds and law errors hide less; a higher value gives up more time.
TOLERANCE = 0.05
# Ratio minus 1. Smaller differences are below what any measurement here resolves: drift of step times between
# rounds, the gain that one more training may bring, the fall of a loss. Lower would chase noise.
RESOLUTION = 0.02
# Two-sided, of every interval that is reported; one-sided in decisions. Higher asks for more measurements.
CONFIDENCE = 0.90

# --- Step times ---------------------------------------------------------------------------------------------

# Repeats of a measurement: rounds of a size, alone or side by side, and parts of held-out
# samples. Below 3 their noise is unknown; beyond 8 the interval shrinks too slowly for its time.
MIN_REPEATS, MAX_REPEATS = 3, 8

# --- Gradient noise scale and critical batch size -----------------------------------------------------------

# Numbers kept of each chunk's gradient, 64 KiB. For 72,000 parameters the interval is 1% wider than with all;
# rows of 1,024 made it 3% wider.
SKETCH_WIDTH = 16_384
# Chunks. Leaving out one of fewer says nothing about their spread.
FEWEST_CHUNKS = 4
# Samples of the first measurement, and of the largest. It is doubled until the interval is narrow. As many as
# the first are held out at most: more narrow a comparison by less than the trainings' own spread.
FIRST_SAMPLES, MOST_SAMPLES = 1024, 8192
# Upper over lower end. A critical batch size that is wrong by 2 costs 3% of the time at most.
NARROW_INTERVAL = 4.0
# The noise scale rises during training: factor from an early measurement to the critical batch size, and its
# spread between tasks as a factor, fitted on four tasks with the judged task left out.
GROWTH, GROWTH_SPREAD = 2.0, 2.3
# Without a valid noise scale the critical batch size may be this many times its lower bound.
OPEN_SPAN = 100.0
# Points of the grid of the belief: a finer grid changes no choice.
GRID_POINTS = 201

# --- Short trainings ----------------------------------------------------------------------------------------

# Standard deviation of ln(steps to a loss) of one training: seeds, and the error of the law.
TRAINING_LOG_SD = 0.25
# Sizes that are trained at most: the current size, and the best sizes at three points of the belief. As many
# learning rates at a size: on five tasks a walk of runs of 10% cost 0.31 of a whole training.
MOST_TRAINED_SIZES = 4
# Factor. A learning rate raised by this much or more is compared with half of it: the rule may go too far.
RAISED_RATE = 1.5
# Share of the user's training. Runs of at least this may raise the learning rate, and of half of it lower it.
# On five tasks and from a quarter to four times the best rate, the walk ended at rates that cost 40% of the
# time on average with runs of 5%, 18% with 10%, and 13% with 20%. Longer runs take more of the budget.
RAISE_FROM = 0.10
# A raised rate has to reach the former end loss in this share of its steps. Higher accepts rates that win
# early only, which cost more than rates that are too low.
RAISED_STEPS = 0.8
# Difference of ln(loss) at equal steps: a larger batch that is worse by it, and by the interval of its error,
# is vetoed. Of 41 healthy trainings none was, of 22 divergent ones 16 were.
WORST_GAP = 0.10
# Last evaluations that are pooled: more smooth noise, and lag behind.
POOLED = 5

# --- The same epochs: final losses and decisions ------------------------------------------------------------

# A final loss that is expected to be higher by this share is no worse. After a tenth of the training, 1% gave
# two thirds of the speedup (in logarithms) that 2% gave. 3% gave no more, and twice as many decisions, 2.2%,
# ended more than 5% higher (benchmarks/same_epochs.py).
HARM_TOLERANCE = 0.02
# The least exponent of the loss curve. A curve that looks flat early still falls later, or overfits less at a
# small size. After a tenth of the training, 8% of the decisions ended more than 5% higher with 0, 4% with
# 0.05, and 1% with 0.1; 0.2 gave two thirds of the speedup.
LEAST_EXPONENT = 0.1
# A loss below this share of the fall since the first weights is near zero: its ratios say nothing. With 0.02,
# one of 99 recorded decisions on whole trainings ended 22% higher.
NEAR_ZERO = 0.01
# The fit uses the part of a training from this share of its epochs on: the start has another exponent.
FITTED_FROM = 1 / 8
# Share of a training, its last part, over which whole trainings are compared. More of it smooths noise, and
# lags behind a loss that falls.
LAST_PART = 1 / 4
# So many evaluations in a row count as one: their noise is common. A last loss is their mean.
SMOOTHED = 3
# The probability of being right from which on a change is recommended. Of recorded decisions on whole
# trainings, 4% ended more than 5% higher with 0.5, at worst 54% higher, and 2% with 0.75, at worst 7% higher.
# Speedups differed by 1%.
CHANGE_PROBABILITY = 0.75

# --- Warnings and predictions -------------------------------------------------------------------------------

# Steps. An epoch with fewer gets a warning.
FEWEST_STEPS_AN_EPOCH = 10
# Factor of the batch size from which on a momentum or beta averages over notably more or fewer samples.
MANY_TIMES_THE_SAMPLES = 8.0
# Upper over lower end of a throughput's interval from which on the machine gets a warning.
UNSTEADY = 1.5
# Largest multiple of a measured size that a prediction covers: accumulation steps, and devices per rank.
FARTHEST_PREDICTION = 64

# --- Measurement: search, memory forecast, budget, check and loader -----------------------------------------

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
# Share of the budget for all but the fewest side-by-side rounds, for the data loader and other small stages.
# More of it leaves less for the check, which decides more. Also the share of the user's training that a
# search may take: timing rounds are made as long as they save time in such a training
# (benchmarks/climb_replay.py).
STAGE_SHARE = 0.1
# Ratio to the current batch size. Smaller sizes stay out of the side-by-side rounds. With 1 in its place,
# one of twenty answers on a busy machine was 16 at a current size of 32, by a quiet moment; a lower one
# costs rounds.
LEAST_CANDIDATE_RATIO = 0.25
# Share of the budget for the climb, after the start-up, the check having the rest. A larger share leaves
# trainings too short to compare, a smaller one leaves sizes unmeasured.
PROBE_SHARE = 0.65
# Share of the time left for training before the gradient noise is measured. The noise scale changes most in
# the first steps; more of it takes time from the short trainings.
BURN_IN_SHARE = 0.25
# Samples per second of training time that is left: a measurement of the noise takes so many of them. Three
# measurements that double stay below half of that time.
NOISE_SAMPLES_SHARE = 0.07
# Epochs at the reference size after which a short training ends. Longer ones are whole trainings.
MOST_EPOCHS = 10
# Steps of the slowest size that a short training needs to be compared: its curve needs four evaluations.
# Earlier, the first weights decide.
FEWEST_STEPS = 12
# Share of a short training that one evaluation takes at most: there are about thirty of them.
EVALUATION_SHARE = 0.01
# Samples. Fewer give no noise scale and no loss on held-out samples worth comparing.
FEWEST_SAMPLES = MAX_REPEATS * SMALL_BATCH_SIZE
# Seconds that a trial may take though the budget is over: one that began just before still runs a step.
SHORTEST_TRIAL_SECONDS = 0.1

"""karpathy/nanoGPT as a model file: the samples of four micro batches at once."""

from adapt_nanogpt import build_model, dataset, make_optimizer, training_step  # noqa: F401  names of a target

batch_size = 48

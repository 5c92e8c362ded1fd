"""Pure: the assumptions of a plan, and the warnings about its predictions."""

from __future__ import annotations

from collections.abc import Collection

from autobatch.records.formatting import format_count
from autobatch.records.limits import Precision
from autobatch.records.workload import Workload

ACCURACY = (
    "predicted batch sizes are typically off by about 5%, on published runs of an RTX 3090; "
    "no device was measured here"
)
_TRAITS = {
    "rnn": "recurrent layers: cuDNN keeps an untraced reserve; an LSTM took 1.5x the predicted memory",
    "group_norm": "GroupNorm with channels last: CUDA may copy around it; a model took 1.2x the prediction",
    "compiled": "the prediction is for the model without `torch.compile`, which changes its memory",
    "foreign": "operators from outside torch: their internal allocations are not counted",
    "changes": "the step changes with the batch size: it was traced again near the predicted sizes",
    "unconfirmed": "the step could not be traced at the predicted sizes, where it may differ",
    "real": "the step can't run without data: it was traced on the CPU with real batches of 2 to 4 samples",
}
_HEAP = (
    "on a CPU the heap wastes up to half of its memory: use `autobatch probe` to measure the size that fits"
)
_OTHER = "`{}` is assumed to allocate by the rules of CUDA's allocator"


def assumptions(
    workload: Workload, *, channels_last: bool, guessed: int, most_samples: int | None = None
) -> tuple[str, ...]:
    """The conditions under which the prediction holds. `most_samples`: those that limited a size."""
    assumed = [
        "eager mode, torch's default allocator settings, optimizers with `foreach`",
        "no other process on the device; convolutions with little workspace (they use the rest)",
    ]
    if workload.precision is None:
        assumed.append("the precision that the training loop sets")
    elif workload.precision is not Precision.FP32:
        assumed.append(f"{workload.precision} autocast by CUDA's rules")
    if channels_last:
        assumed.append("images and weights in channels-last layout")
    if guessed:
        times = "once" if guessed == 1 else f"{format_count(guessed)} times"
        assumed.append(f"numbers that the step reads from tensors ({times}) were assumed to be 0")
    if most_samples is not None:
        samples = format_count(most_samples)
        assumed.append(f"batch sizes stop at the {samples} samples of the data set, even if more fit")
    return tuple(assumed)


def warnings(traits: Collection[str], kinds: Collection[str]) -> tuple[str, ...]:
    """Reasons why a prediction is less certain, by the traits of its step and the kinds of its devices."""
    texts = [text for trait, text in _TRAITS.items() if trait in traits]
    texts += [_HEAP] if "cpu" in kinds else []
    texts += [_OTHER.format(kind) for kind in sorted({*kinds} - {"cpu", "cuda"})]
    return tuple(texts)

"""Pure: what a plan takes for given, and what speaks against it."""

from __future__ import annotations

from collections.abc import Collection

from autobatch.records.formatting import format_count
from autobatch.records.limits import Precision
from autobatch.records.workload import Workload

ACCURACY = (
    "an error of about 5% of the batch size is typical, on published runs of an RTX 3090; "
    "no device was measured here"
)
_TRAITS = {
    "rnn": "recurrent layers: cuDNN keeps a reserve of its own, which made an LSTM take half as much again",
    "group_norm": "GroupNorm with channels last: CUDA may copy around it, which took a quarter more once",
    "compiled": "the prediction is for the model without `torch.compile`, whose memory differs",
    "foreign": "operators that are not torch's own: what they allocate inside is not seen",
    "changes": "the step is another one at other batch sizes: it was traced anew near the answers",
    "unconfirmed": "the step could not be traced at the predicted sizes: it may be another one there",
    "real": "the step can't run without data: it was traced on the CPU on real batches of 2 to 4 samples",
}
_HEAP = "on a CPU a process's heap loses up to half of its memory: `autobatch probe` measures here what fits"
_OTHER = "the rules of CUDA's allocator were taken for that of `{}`"


def assumptions(workload: Workload, *, channels_last: bool, guessed: int) -> tuple[str, ...]:
    """What has to be so for the prediction to hold."""
    found = [
        "eager mode, torch's default allocator settings, optimizers over all parameters at once (foreach)",
        "nothing else on the device; convolutions with little workspace (they take what is left)",
    ]
    if workload.precision is None:
        found.append("the precision of the training's own loop")
    elif workload.precision is not Precision.FP32:
        found.append(f"{workload.precision} autocast by CUDA's rules")
    if channels_last:
        found.append("images and weights with their channels last")
    if guessed:
        times = "once" if guessed == 1 else f"{format_count(guessed)} times"
        found.append(f"a number that the step reads from a tensor ({times}) was taken for 0")
    return tuple(found)


def warnings(traits: Collection[str], kinds: Collection[str]) -> tuple[str, ...]:
    """What makes a prediction less sure, by the traits of its step and the kinds of its devices."""
    found = [text for trait, text in _TRAITS.items() if trait in traits]
    found += [_HEAP] if "cpu" in kinds else []
    found += [_OTHER.format(kind) for kind in sorted({*kinds} - {"cpu", "cuda"})]
    return tuple(found)

"""The kinds of inputs in docs/field.md, by the command line alone, which older versions have as well.

Each test has an input of its own in `field/`. With the folder of an older version in PYTHONPATH the tests run
against that version: docs/field.md says which of them fail on d58a24b, and by which answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FIELD = Path(__file__).parent / "field"
# Searches end by their sizes. Each of these has a quick test of its mechanism too.
slow = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Runs Python with these arguments, away from the sources; returns the finished process."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)

    return run


@pytest.fixture
def probe(run: Any) -> Any:
    """The JSON answer of `autobatch probe` for a file in `field/`, or its JSON error."""

    def probe(name: str, *options: str, check: bool = False) -> Any:
        budget = () if "--budget" in options else ("--budget", "10m")
        mode = () if check else ("--no-check",)
        done = run("-m", "autobatch", "probe", FIELD / f"{name}.py", "--json", *budget, *mode, *options)
        return json.loads(done.stdout)

    return probe


def refusal(answer: Any) -> Any:
    """The error of a search that is to have no answer."""
    assert not answer["ok"], f"answered {answer.get('batch_size')}"
    return answer["error"]


def failed(answer: Any) -> list[int]:
    """The sizes that can't be trained."""
    assert answer["ok"], answer["error"]
    return [trial["batch_size"] for trial in answer["trials"] if trial["outcome"] != "ok"]


def ceiling(answer: Any) -> tuple[int, str]:
    assert answer["ok"], answer["error"]
    return answer["ceiling"]["batch_size"], answer["ceiling"]["limited_by"]


def warnings(answer: Any) -> str:
    assert answer["ok"], answer["error"]
    return "\n".join(answer["warnings"])


# State from one trial to the next


def test_a_state_that_is_carried_from_batch_to_batch_belongs_to_no_size(probe: Any) -> None:
    """fastbook 469; tensorflow 53024."""
    answer = probe("carried_state")
    assert failed(answer) == []
    assert ceiling(answer) == (64, "dataset")
    assert "`Tagger.state`" in warnings(answer)


@slow
def test_a_list_of_rates_that_ends_is_no_limit_of_a_size(probe: Any) -> None:
    """PiFold 6; flair 2954."""
    assert ceiling(probe("planned_rates")) == (96, "dataset")


# Samplers


@slow
def test_a_part_of_the_data_is_the_data_set(probe: Any) -> None:
    """nitrain 62; ffcv 171."""
    answer = probe("part_of_the_data")
    assert ceiling(answer) == (36, "dataset")
    assert answer["workload"]["dataset_size"] == 36


@slow
def test_a_weighted_sampler_gives_the_samples_of_an_epoch(probe: Any) -> None:
    """ffcv 171: a rebuilt loader with `drop_last` would have no batch."""
    answer = probe("rare_classes")
    assert ceiling(answer) == (40, "dataset")
    assert answer["workload"]["dataset_size"] == 40


@slow
def test_batches_that_a_sampler_makes_are_refused_by_its_name(probe: Any) -> None:
    """open-metric-learning 626; Lightning 19371; PyTorch-NLP 114; transformers 14767."""
    error = refusal(probe("buckets"))
    assert "TokenBuckets" in error["message"]
    assert error["hint"]


# Evaluation without a loss


@slow
def test_a_model_with_a_loss_in_training_mode_only(probe: Any) -> None:
    """vision 1574, 1350; rf-detr 814."""
    assert ceiling(probe("keypoints")) == (32, "dataset")


@slow
def test_a_validation_step_without_a_loss(probe: Any) -> None:
    """lightning-flash 636."""
    pytest.importorskip("lightning")
    assert ceiling(probe("keypoints_lightning", "--max-batch", "8")) == (8, "max_batch")


# Floors


@slow
def test_a_loss_that_is_nan_at_one_sample_leaves_the_other_sizes_alone(probe: Any) -> None:
    """nncf 379; pytorch 116349: one NaN reached the weights of all sizes."""
    answer = probe("spread")
    assert failed(answer) == [1]
    assert "--min-batch 2" in warnings(answer)


@slow
def test_small_batches_without_a_label_are_a_floor(probe: Any) -> None:
    """pytorch 70348, 116349."""
    answer = probe("few_labels")
    assert ceiling(answer) == (80, "dataset")
    assert "--min-batch" in warnings(answer)


@slow
def test_a_batch_whose_samples_are_all_dropped_is_a_floor(probe: Any) -> None:
    """pytorch 57429, 1137."""
    answer = probe("broken_files")
    assert ceiling(answer) == (60, "dataset")
    assert 1 in failed(answer)


@slow
def test_a_training_step_without_a_loss_is_a_floor(probe: Any) -> None:
    """Lightning-AI/pytorch-lightning 3491, 6753: `training_step` returns None to skip a batch."""
    answer = probe("skipped_steps")
    assert ceiling(answer) == (60, "dataset")
    assert "--min-batch" in warnings(answer)


@slow
def test_a_size_that_is_written_into_the_model_is_tried_first(probe: Any) -> None:
    """ICDICNet 25."""
    answer = probe("written_size")
    assert ceiling(answer) == (24, "size_limit")
    assert answer["batch_size"] == 24


# Sizes of samples


@slow
def test_sizes_in_the_slots_of_an_object_are_read(probe: Any) -> None:
    """pytorch_geometric 583, 1113; polygnn 26."""
    sizes = probe("molecules")["workload"]["sizes"]
    assert (sizes["smallest"], sizes["largest"]) == (40, 2000)


# Kinds of loss


@slow
def test_a_contrastive_loss_is_not_accumulated(probe: Any) -> None:
    """sentence-transformers 2916, 1822; simclr 203; GradCache 7, 13; e5-mistral-7b-instruct 15."""
    answer = probe("two_views", "--global-batch", "64", "--max-batch", "16", "--epochs", "1", check=True)
    assert answer["accumulation_steps"] == 1
    assert "the loss depends on the rest of the batch" in warnings(answer)


@slow
def test_a_sum_over_the_batch_is_recognized(probe: Any) -> None:
    """yolov7 1713; jax 3113; cornac 537."""
    answer = probe("summed", "--max-batch", "32", "--epochs", "1", check=True)
    assert answer["check"].get("loss_kind") == "sum"


@slow
def test_the_check_trains_on_whole_groups(probe: Any) -> None:
    """pytorch-metric-learning 259."""
    answer = probe("quadruples", "--multiple-of", "4", "--max-batch", "32", "--epochs", "1", check=True)
    assert answer["check"]["status"] == "passed", answer["check"]["detail"]


@slow
def test_groups_stay_whole(probe: Any) -> None:
    """trl 2858, 3061, 3020; open-r1 249, 236. A new option: d58a24b does not know it."""
    answer = probe("groups", "--group", "8", "--max-batch", "64")
    assert failed(answer) == []
    assert all(trial["batch_size"] % 8 == 0 for trial in answer["trials"])


# Limits


def test_a_memory_bank_is_a_limit_and_the_sizes_below_it_stand(probe: Any) -> None:
    """BLIP 101; Real-ESRGAN 151; moco 99."""
    answer = probe("memory_bank")
    assert ceiling(answer) == (48, "size_limit")
    assert all(size > 48 for size in failed(answer))


def test_a_last_batch_of_one_sample_is_tried(probe: Any) -> None:
    """nncf 379; fastai 1352; stable-baselines3 1025."""
    answer = probe("last_sample", "--min-batch", "32", "--max-batch", "32")
    assert "drop_last=True" in warnings(answer)


@slow
def test_the_current_size_is_measured_however_slow_its_samples_are(probe: Any) -> None:
    """MONAI 1574."""
    answer = probe("slow_samples", "--budget", "4s")
    assert answer["ok"], answer["error"]
    assert 6 in [trial["batch_size"] for trial in answer["trials"]]


@slow
def test_memory_that_grows_in_every_step_is_named(probe: Any) -> None:
    """chexnet 12; pytorch 5251."""
    answer = probe("kept_activations", "--objective", "memory", "--memory-limit", "300MiB")
    assert "memory grows by" in warnings(answer)


@slow
def test_a_memory_limit_without_a_unit_is_no_number_of_bytes(probe: Any) -> None:
    """Lightning-AI/pytorch-lightning 20447: a limit that is given wrongly must not count."""
    error = refusal(probe("lazy", "--memory-limit", "3"))
    assert "needs a unit" in error["message"]


# Types


@slow
def test_complex_weights_have_a_noise_scale(probe: Any) -> None:
    """jaxopt 169; dadaptation 10."""
    answer = probe("fourier", "--max-batch", "32", "--epochs", "1", check=True)
    assert answer["check"]["status"] == "passed", answer["check"]["detail"]


@slow
def test_doubles_stay_doubles_for_a_model_of_doubles(probe: Any) -> None:
    """pykan 129."""
    assert ceiling(probe("doubles")) == (80, "dataset")


@slow
def test_two_lists_are_two_columns(probe: Any) -> None:
    """skorch 131; tabnet 492."""
    answer = probe("columns")
    assert ceiling(answer) == (90, "dataset")


@slow
def test_lazy_modules_are_counted_with_their_weights(probe: Any) -> None:
    """pytorch 83168."""
    assert probe("lazy", "--max-batch", "8")["workload"]["parameters"] == 7 * 10 + 10 + 10 * 3 + 3


@slow
def test_a_loss_beside_the_output_is_the_loss(probe: Any) -> None:
    """transformers 82, 831: older models return (loss, logits)."""
    assert ceiling(probe("loss_and_output")) == (64, "dataset")


# Optimizers and steps


@slow
def test_sparse_and_dense_rules_give_a_rate(probe: Any) -> None:
    """RecBole 558; dlrm 15."""
    answer = probe("sparse_rows", "--max-batch", "32", "--epochs", "1", check=True)
    assert "no rule is known" not in warnings(answer)


@slow
def test_an_optimizer_that_needs_a_closure_has_a_hint(probe: Any) -> None:
    """pytorch 111369; Lightning 246; skorch 207."""
    error = refusal(probe("lbfgs"))
    assert "closure" in error["hint"]
    assert "def step" in error["hint"]


@slow
def test_a_training_step_that_goes_back_by_itself_has_a_hint(probe: Any) -> None:
    """transformers 7662; Lightning-AI/pytorch-lightning 1771."""
    assert "before `backward`" in refusal(probe("backward_in_loss"))["hint"]


@slow
def test_a_step_without_a_check_keeps_the_current_size(probe: Any) -> None:
    """Lightning-AI/pytorch-lightning 2820: the steps of a GAN, whose losses nobody sees."""
    answer = probe("adversary", check=True)
    assert answer["batch_size"] == 32


# Ways to call it


@slow
def test_a_file_with_arguments_of_its_own_has_a_hint(probe: Any) -> None:
    """pytorch-fm 29: a file that parses its arguments when it is imported."""
    assert "after `--`" in refusal(probe("arguments"))["hint"]


@slow
def test_an_open_file_has_a_hint_for_the_data_set(run: Any) -> None:
    """h5py 1512."""
    error = json.loads(run(FIELD / "open_file.py").stdout)
    assert "dataset" in error["message"]
    assert "Net()" not in error["hint"]


@slow
def test_a_fallback_stands_where_no_size_trains(run: Any) -> None:
    """jonathanking/protein-transformer 4. A new option: d58a24b does not know it."""
    done = run("-m", "autobatch", "probe", FIELD / "wrong_layer.py", "-q", "--fallback", "16")
    assert (done.returncode, done.stdout.strip()) == (0, "16")


@slow
def test_a_plan_has_no_more_samples_than_the_data_set(run: Any) -> None:
    """Lightning-AI/litgpt 921; accelerate 2512."""
    done = run("-m", "autobatch", "plan", FIELD / "positions.py", "--on", "h100", "--json")
    (fit,) = json.loads(done.stdout)["fits"]
    assert fit["batch_size"] == 640

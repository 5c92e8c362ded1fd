"""Public training scripts, pinned by commit: where they are, and the command that trains with each.

Nothing of them is part of this repository. `fetch` brings them from their own.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

EXAMPLES = "pytorch/examples"
ACCELERATE = "huggingface/accelerate"
LIGHTNING = "Lightning-AI/pytorch-lightning"
TUTORIAL = "yunjey/pytorch-tutorial"
NANOGPT = "karpathy/nanoGPT"
COMMITS = {
    EXAMPLES: "77f55b912142e11fcfdf5b530231fb9c52f181e8",
    NANOGPT: "3adf61e154c3fe3fca428ad6bc3818b27a3b8291",
    "karpathy/makemore": "988aa59e4d8fefa526d06f3b453ad116258398d4",
    "karpathy/minGPT": "37baab71b9abea1b76ab957409a1cc2fbfba8a26",
    ACCELERATE: "16cb6eb80dd9aa8b4df1a63ef57863e455d53b83",
    "huggingface/pytorch-image-models": "aa4b5850c1543fa488abf260f18390eda46cf85d",
    LIGHTNING: "7f0c3436cd3f6ad3753125672024fc415cbcb414",
    "pyg-team/pytorch_geometric": "5c6461b2305ad068a6d61165b3c55852a11aaa41",
    "keras-team/keras": "3422977a5e38fb2f7709aaa9a08e47f0c43d0f60",
    TUTORIAL: "0500d3df5a2a8080ccfccbc00aca0eacc21818db",
}


@dataclass(frozen=True, kw_only=True)
class Script:
    """A script of a public repository, and the `command` that trains with it in `folder`.

    `folder` is below that of all checkouts, which is `{root}` in a word of the command. `batch_size`: that of
    one optimizer step on one rank, as its code says. `refused`: the code of its error where it has none.
    """

    name: str
    repository: str
    folder: str
    command: str
    batch_size: int | None = None
    refused: str = ""

    def words(self, root: Path, python: str) -> list[str]:
        """The command, with this Python and its launchers in it."""
        launchers = {
            "python": [python],
            "torchrun": [python, "-m", "torch.distributed.run"],
            "accelerate": [python, "-m", "accelerate.commands.accelerate_cli"],
        }
        words = [word.replace("{root}", str(root)) for word in self.command.split()]
        return [word for name in words for word in launchers.get(name, [name])]


def _example(
    name: str, command: str, batch_size: int | None, *, folder: str = "", refused: str = ""
) -> Script:
    place = f"pytorch+examples/{folder or name}"
    return Script(
        name=name, repository=EXAMPLES, folder=place, command=command, batch_size=batch_size, refused=refused
    )


def _tutorial(name: str, folder: str, batch_size: int | None, *, refused: str = "") -> Script:
    return Script(
        name=name,
        repository=TUTORIAL,
        folder=f"yunjey+pytorch-tutorial/tutorials/{folder}",
        command="python main.py",
        batch_size=batch_size,
        refused=refused,
    )


_GPT = (
    "python train.py config/train_shakespeare_char.py --device=cpu --eval_iters=1 --block_size=64 "
    "--n_layer=2 --n_head=2 --n_embd=64 --compile={compiled} --gradient_accumulation_steps={steps} "
    "--batch_size={{batch_size=12}}"
)


def _nanogpt(name: str, steps: int, compiled: bool) -> Script:
    command = _GPT.format(steps=steps, compiled=compiled)
    return Script(
        name=name, repository=NANOGPT, folder="karpathy+nanoGPT", command=command, batch_size=12 * steps
    )


def _accelerate(name: str, command: str, batch_size: int) -> Script:
    # Models and data of the Hub are folders of these names.
    command = f"HF_HUB_OFFLINE=1 {command}"
    return Script(name=name, repository=ACCELERATE, folder="hub", command=command, batch_size=batch_size)


_NLP = "{root}/huggingface+accelerate/examples"
SCRIPTS = (
    _example("mnist", "python main.py", 64),
    _example("vae", "python main.py", 128),
    _example("dcgan", "python main.py --dataset fake", 64),
    _example("super_resolution", "python main.py --upscale_factor 3", 64),
    _example("imagenet", "python main.py -a resnet18 --dummy -b 32", 32),
    _example("siamese_network", "python main.py", 64),
    _example("mnist_rnn", "python main.py", 64),
    _example("mnist_hogwild", "python main.py", 64),
    _example(
        "word_language_model",
        "python main.py --epochs 2 --batch_size {batch_size=20}",
        None,
        refused="own_updates",
    ),
    _example(
        "time_sequence_prediction",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 python train.py",
        None,
        refused="closure_optimizer",
    ),
    _example("regression", "python main.py", None, refused="own_updates"),
    _nanogpt("nanogpt", 1, compiled=False),
    _nanogpt("nanogpt_accumulation", 4, compiled=False),
    _nanogpt("nanogpt_compiled", 1, compiled=True),
    Script(
        name="makemore",
        repository="karpathy/makemore",
        folder="karpathy+makemore",
        command="python makemore.py -i names.txt -o names",
        batch_size=32,
    ),
    Script(
        name="mingpt_adder",
        repository="karpathy/minGPT",
        folder="karpathy+minGPT",
        command="PYTHONPATH=. python projects/adder/adder.py --trainer.batch_size=64",
        batch_size=64,
    ),
    _accelerate("accelerate_nlp", f"accelerate launch --cpu {_NLP}/nlp_example.py --cpu", 16),
    _accelerate(
        "accelerate_accumulation",
        f"python {_NLP}/by_feature/gradient_accumulation.py --cpu --gradient_accumulation_steps 2",
        32,
    ),
    _accelerate(
        "accelerate_2_ranks",
        f"torchrun --standalone --nproc-per-node 2 {_NLP}/nlp_example.py --cpu",
        16,
    ),
    Script(
        name="lightning_autoencoder",
        repository=LIGHTNING,
        folder="Lightning-AI+pytorch-lightning/examples/pytorch/basics",
        command="python autoencoder.py --trainer.accelerator cpu",
        batch_size=32,
    ),
    Script(
        name="lightning_classifier",
        repository=LIGHTNING,
        folder="Lightning-AI+pytorch-lightning/examples/pytorch/basics",
        command="python backbone_image_classifier.py --trainer.accelerator cpu",
        batch_size=32,
    ),
    Script(
        name="fabric_classifier",
        repository=LIGHTNING,
        folder="Lightning-AI+pytorch-lightning/examples/fabric/image_classifier",
        command="python train_fabric.py",
        batch_size=64,
    ),
    Script(
        name="keras_subclass",
        repository="keras-team/keras",
        folder="keras-team+keras/examples",
        command="KERAS_BACKEND=torch python demo_subclass.py",
        batch_size=32,
    ),
    Script(
        name="keras_functional",
        repository="keras-team/keras",
        folder="keras-team+keras/examples",
        command="KERAS_BACKEND=torch python demo_functional.py",
        batch_size=32,
    ),
    Script(
        name="graph_network",
        repository="pyg-team/pytorch_geometric",
        folder="pyg-team+pytorch_geometric/examples",
        command="python mutag_gin.py",
        batch_size=128,
    ),
    Script(
        name="timm",
        repository="huggingface/pytorch-image-models",
        folder="huggingface+pytorch-image-models",
        command="python train.py --data-dir {root}/imagefolder --model resnet10t --img-size 64 --device cpu "
        "--num-classes 10 -b 32 --workers 1 --epochs 10",
        batch_size=32,
    ),
    _tutorial("feedforward", "01-basics/feedforward_neural_network", 100),
    _tutorial("tutorial_gan", "03-advanced/generative_adversarial_network", None, refused="fixed_batch_size"),
)


def fetch(repository: str, root: Path) -> Path:
    """The checkout of a repository below `root`, at its commit; fetched where it is missing.

    Raises ValueError for a checkout of another commit, CalledProcessError where git fails.
    """
    place, commit = root / repository.replace("/", "+"), COMMITS[repository]
    if not (place / ".git").exists():
        place.mkdir(parents=True, exist_ok=True)
        _git(place, "init", "--quiet")
        _git(place, "remote", "add", "origin", f"https://github.com/{repository}")
        _git(place, "fetch", "--quiet", "--depth", "1", "origin", commit)
        _git(place, "checkout", "--quiet", "FETCH_HEAD")
    if _git(place, "rev-parse", "HEAD") != commit:
        raise ValueError(f"{place} is no checkout of {commit}")
    return place


def _git(place: Path, *arguments: str) -> str:
    ended = subprocess.run(["git", *arguments], cwd=place, check=True, capture_output=True, text=True)
    return ended.stdout.strip()

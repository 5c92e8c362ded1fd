"""Small data in the formats that public training scripts read: they run unmodified and without network.

    python benchmarks/script_data.py FOLDER

FOLDER holds the checkouts that `benchmarks/scripts.py` fetches. Digits and photos are those that scikit-learn
ships, text is that of Python's own library, and models have random weights.
"""

from __future__ import annotations

import csv
import json
import pickle
import re
import struct
import sysconfig
from pathlib import Path

import numpy
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

SEED = 0
# As many as MNIST has; some scripts count on it.
TRAINED, HELD_OUT = 60_000, 10_000
TEXT_CHARACTERS = 1_000_000

GLUE_CARD = """---
configs:
- config_name: mrpc
  data_files:
  - {split: train, path: train.csv}
  - {split: validation, path: validation.csv}
---
"""
GLUE_METRIC = '''
import datasets
import evaluate


class Glue(evaluate.Metric):
    """The share of right predictions."""

    def _info(self):
        number = datasets.Value("int64")
        features = datasets.Features({"predictions": number, "references": number})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return {"accuracy": sum(p == r for p, r in zip(predictions, references)) / len(references)}
'''


def main(folder: Path) -> None:
    images, labels = digits()
    for place in (
        "pytorch+examples/data",
        "yunjey+pytorch-tutorial/tutorials/data",
        "Lightning-AI+pytorch-lightning/examples/Datasets",
        "Lightning-AI+pytorch-lightning/Datasets",
        "Lightning-AI+pytorch-lightning/examples/pytorch/basics/data",
    ):
        write_idx(folder / place / "MNIST" / "raw", images, labels)
    write_image_folder(folder / "imagefolder", images, labels)
    write_photos(folder / "pytorch+examples/super_resolution/dataset/BSDS300/images")
    text = library_text()
    write_words(folder / "pytorch+examples/word_language_model/data/wikitext-2", text)
    write_characters(folder / "karpathy+nanoGPT/data/shakespeare_char", text)
    write_waves(folder / "pytorch+examples/time_sequence_prediction")
    write_graphs(folder / "pyg-team+pytorch_geometric/data/TU/MUTAG/raw")
    write_hub(folder / "hub", text)


def digits() -> tuple[numpy.ndarray, numpy.ndarray]:
    """28x28 digits and their labels, each shifted in several ways."""
    data = load_digits()
    small = (data.images * 15.9).astype(numpy.uint8)
    large = numpy.pad(small.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))
    generator = numpy.random.default_rng(SEED)
    copies = -(-(TRAINED + HELD_OUT) // len(large))
    shifts = generator.integers(-2, 3, (copies, 2))
    images = numpy.concatenate([numpy.roll(large, tuple(shift), (1, 2)) for shift in shifts])
    order = generator.permutation(len(images))[: TRAINED + HELD_OUT]
    return images[order], numpy.tile(data.target, copies)[order].astype(numpy.uint8)


def write_idx(folder: Path, images: numpy.ndarray, labels: numpy.ndarray) -> None:
    """MNIST's own files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("t10k", slice(None, HELD_OUT)), ("train", slice(HELD_OUT, None))):
        for kind, array in (("images-idx3", images[part]), ("labels-idx1", labels[part])):
            header = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
            (folder / f"{name}-{kind}-ubyte").write_bytes(header + array.tobytes())


def write_image_folder(folder: Path, images: numpy.ndarray, labels: numpy.ndarray) -> None:
    for split, part in (("train", slice(0, 2000)), ("val", slice(2000, 2200))):
        for place, (image, label) in enumerate(zip(images[part], labels[part], strict=True)):
            target = folder / split / f"class{label}" / f"{place}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).convert("RGB").resize((64, 64)).save(target)


def write_photos(folder: Path) -> None:
    """Cuts of two photos in the place of BSDS300."""
    photos = load_sample_images().images
    generator = numpy.random.default_rng(SEED)
    for split, count in (("train", 200), ("test", 20)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for place in range(count):
            photo = photos[place % len(photos)]
            top, left = (
                int(generator.integers(0, room)) for room in (photo.shape[0] - 321, photo.shape[1] - 481)
            )
            Image.fromarray(photo[top : top + 321, left : left + 481]).save(folder / split / f"{place}.jpg")


def library_text() -> str:
    text = ""
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text += file.read_text(errors="ignore")
        if len(text) > TEXT_CHARACTERS:
            break
    return "".join(character for character in text[:TEXT_CHARACTERS] if ord(character) < 127)


def write_words(folder: Path, text: str) -> None:
    """Lines of words, as in wikitext-2; files of the checkout stay."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [" ".join(re.findall(r"\w+|[^\w\s]", line)) for line in text.splitlines() if line.strip()]
    first, second = int(0.9 * len(lines)), int(0.95 * len(lines))
    for name, part in (("train", lines[:first]), ("valid", lines[first:second]), ("test", lines[second:])):
        if not (folder / f"{name}.txt").exists():
            (folder / f"{name}.txt").write_text("\n".join(part))


def write_characters(folder: Path, text: str) -> None:
    """Character codes, as nanoGPT's own preparation writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    characters = sorted(set(text))
    codes = {character: code for code, character in enumerate(characters)}
    numbers = numpy.array([codes[character] for character in text], dtype=numpy.uint16)
    held = len(numbers) // 10
    numbers[held:].tofile(folder / "train.bin")
    numbers[:held].tofile(folder / "val.bin")
    meta = {"vocab_size": len(characters), "stoi": codes, "itos": dict(enumerate(characters))}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def write_waves(folder: Path) -> None:
    """Sine waves, as the script's own generator makes them."""
    import torch

    phases = numpy.random.default_rng(SEED).integers(-80, 80, (100, 1))
    torch.save(numpy.sin((numpy.arange(1000) + phases) / 20.0), folder / "traindata.pt")


def write_graphs(folder: Path) -> None:
    """Rings and stars in the text files of a TU data set."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = numpy.random.default_rng(SEED)
    edges: list[str] = []
    members: list[str] = []
    kinds: list[str] = []
    nodes: list[str] = []
    for graph in range(1, 1001):
        count, is_ring = int(generator.integers(8, 24)), bool(generator.integers(2))
        first = len(members) + 1
        for node in range(count):
            other = first + (node + 1) % count if is_ring else first
            if other != first + node:
                edges += [f"{first + node}, {other}", f"{other}, {first + node}"]
        members += [str(graph)] * count
        nodes += [str(int(generator.integers(7))) for _ in range(count)]
        kinds.append("1" if is_ring else "-1")
    for name, lines in (
        ("A", edges),
        ("graph_indicator", members),
        ("graph_labels", kinds),
        ("node_labels", nodes),
    ):
        (folder / f"MUTAG_{name}.txt").write_text("\n".join(lines) + "\n")


def write_hub(folder: Path, text: str) -> None:
    """A tiny BERT of random weights, sentence pairs and a metric, by names of the Hub."""
    from transformers import BertConfig, BertForSequenceClassification

    model = folder / "bert-base-cased"
    model.mkdir(parents=True, exist_ok=True)
    lines = [line.strip() for line in text.splitlines() if 20 < len(line.strip()) < 200]
    words = sorted({word for line in lines for word in re.findall(r"\w+|[^\w\s]", line)})[:8000]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (model / "vocab.txt").write_text("\n".join(vocabulary))
    (model / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": False, "model_max_length": 128})
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=128,
    )
    BertForSequenceClassification(config).save_pretrained(model)
    generator = numpy.random.default_rng(SEED)
    data = folder / "nyu-mll" / "glue"
    data.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", 3668), ("validation", 408)):
        with open(data / f"{name}.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["idx", "sentence1", "sentence2", "label"])
            for place in range(count):
                first, label = int(generator.integers(len(lines) - 1)), int(generator.integers(2))
                second = first + 1 if label else int(generator.integers(len(lines)))
                table.writerow([place, lines[first], lines[second], label])
    (data / "README.md").write_text(GLUE_CARD)
    (folder / "glue").mkdir(exist_ok=True)
    (folder / "glue" / "glue.py").write_text(GLUE_METRIC)


if __name__ == "__main__":
    import sys

    main(Path(sys.argv[1]))

"""The Keras model of many beginners' tutorials: two classes from one feature, scaled to [0, 1].

Find its batch size, then train with it:

    autobatch probe autobatch.examples.keras_beginner
    python -m autobatch.examples.keras_beginner --batch-size 10
"""

from __future__ import annotations

import argparse
import os

# Keras reads its backend when it is imported.
os.environ["KERAS_BACKEND"] = "torch"

import numpy as np

try:
    from keras import Input, Sequential
    from keras.layers import Dense
    from keras.optimizers import Adam
    from keras.regularizers import l2
except ImportError as error:
    raise ImportError("this example needs Keras, which is not installed: pip install keras") from error

Arrays = tuple[np.ndarray, np.ndarray]

batch_size = 10
epochs = 20

SAMPLES = 2100
VALIDATION_SAMPLES = 210
YOUNGEST, OLDEST = 13, 100
# From this age on, a sample belongs to the second class. 5% of the labels are wrong.
THRESHOLD = 65
LABEL_NOISE = 0.05
DATA_SEED = 0


def build_model() -> Sequential:
    """A compiled network of 642 parameters: features (N, 1) in, two scores (N, 2) out."""
    model = Sequential(
        [
            Input(shape=(1,)),
            Dense(16, activation="relu"),
            Dense(32, activation="relu", kernel_regularizer=l2(0.01)),
            Dense(2, activation="sigmoid"),
        ]
    )
    model.compile(
        optimizer=Adam(learning_rate=0.001), loss="sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def build_dataset() -> Arrays:
    """The 1,890 training samples: feature float32 (N, 1) from 0 to 1, class int64 (N,)."""
    features, classes = _samples()
    return features[VALIDATION_SAMPLES:], classes[VALIDATION_SAMPLES:]


def build_val_dataset() -> Arrays:
    """The 210 samples kept for validation."""
    features, classes = _samples()
    return features[:VALIDATION_SAMPLES], classes[:VALIDATION_SAMPLES]


def _samples() -> Arrays:
    """All samples, in the same random order every time."""
    random = np.random.default_rng(DATA_SEED)
    ages = random.integers(YOUNGEST, OLDEST + 1, SAMPLES)
    wrong = random.random(SAMPLES) < LABEL_NOISE
    features = (ages - YOUNGEST) / (OLDEST - YOUNGEST)
    return features.astype(np.float32).reshape(-1, 1), ((ages >= THRESHOLD) ^ wrong).astype(np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the network as `fit` does.")
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--epochs", type=int, default=epochs)
    options = parser.parse_args()

    features, classes = build_dataset()
    build_model().fit(
        x=features,
        y=classes,
        validation_data=build_val_dataset(),
        batch_size=options.batch_size,
        epochs=options.epochs,
        shuffle=True,
        verbose=2,
    )


if __name__ == "__main__":
    main()

"""A Keras model on torch, trained by `fit`."""

import os

os.environ["KERAS_BACKEND"] = "torch"
import keras
import numpy

keras.utils.set_random_seed(0)
x = numpy.random.random((4096, 6)).astype("float32")
y = x @ numpy.random.random((6, 1)).astype("float32")
model = keras.Sequential([keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)])
model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
model.fit(x, y, batch_size=32, epochs=1000, verbose=0)

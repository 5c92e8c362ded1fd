"""Lightning's autoencoder as a model file."""

import os
import sys

sys.path.insert(0, os.getcwd())
from autoencoder import LitAutoEncoder, MyDataModule

model = LitAutoEncoder()
datamodule = MyDataModule()
epochs = 10

"""Lightning's backbone_image_classifier as a model file."""

import os
import sys

sys.path.insert(0, os.getcwd())
from backbone_image_classifier import LitClassifier, MyDataModule

model = LitClassifier()
datamodule = MyDataModule()

"""Data sets: `load("cifar10")`, `load("digits")`, and ways to damage their images."""

from helpers.data.dataset import Dataset
from helpers.data.loading import DATASETS, load

__all__ = ["DATASETS", "Dataset", "load"]

"""Data sets: images by `load`, and ways to damage them; tables by `load_table`, texts by `load_texts`."""

from helpers.data.dataset import Dataset
from helpers.data.loading import DATASETS, load
from helpers.data.tables import TABLES, Table, load_table
from helpers.data.texts import TEXTS, Texts, load_texts

__all__ = [
    "DATASETS",
    "TABLES",
    "TEXTS",
    "Dataset",
    "Table",
    "Texts",
    "load",
    "load_table",
    "load_texts",
]

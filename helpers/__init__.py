"""The package behind the notebooks: data, models, artefacts, plots and the runner.

Importing it sets the two environment variables that TensorFlow reads at its own first import.
"""

import os

# alibi-detect 0.13 refuses Keras 3 networks: `tf.keras` must be tf-keras everywhere.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
# Without a GPU TensorFlow logs CUDA registration errors that mean nothing to a reader.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

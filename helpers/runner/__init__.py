"""Runs the notebooks through papermill: `make run` and `make notebooks`.

    python -m helpers.runner run --only 06 -p EPOCHS=1

This process never imports TensorFlow; each notebook does, in a kernel of its own.
"""

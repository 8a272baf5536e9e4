"""Train, measure and save every artefact: `python -m helpers.train`, which is `make train`."""

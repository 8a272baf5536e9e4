"""The explain server as the custom explainer of a KServe InferenceService.

    python -m helpers.serving.kserve_explain --explainer_type=AnchorImages --threshold=0.9 \
        --model_name cifar10 --predictor_host cifar10-predictor.walkthrough --http_port 8080

KServe adds the last three to the container's arguments, downloads what the variable STORAGE_URI names to
/mnt/models, and sends `/v1/models/<model>:explain` here and `:predict` to the predictor. What is the
adapter's own:

- `--explainer_type`  the method; the other arguments are its options, in any order
- `--storage_uri`     a folder with one file, `explainer.dill`, as KServe's own explainers read it; by default
                      /mnt/models. Or an artefact, `s3://walkthrough/<dataset>/<name>`, that is in the image.
- GET `/v1/models/<model>`  whether it is ready, as KServe asks

A pickle executes code: a single file is loaded only if its checksum stands in the `artifact.json` of an
artefact in ARTIFACTS_DIR, that of the image, wherever the file itself comes from.
"""

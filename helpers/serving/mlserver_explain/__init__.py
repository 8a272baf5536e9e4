"""An explainer over the v2 protocol: the explain server's methods behind MLServer.

    python -m helpers.serving.mlserver_explain --storage_uri=s3://walkthrough/cifar10/anchor_images --threshold=0.9

Seldon's operator tells a v2 explainer where its model is by variables, and passes it no arguments; what
`containerSpec.args` says stays, and so do an option of the method or `--storage_uri` there. It sets

    MLSERVER_HTTP_PORT      the port to listen on
    MLSERVER_MODEL_NAME     the explainer's name in its paths: the container's, which the manifest may choose
    MLSERVER_MODEL_URI      the artefact; --storage_uri stands above it
    MLSERVER_MODEL_EXTRA    {"explainer_type": one of TAGS, "infer_uri": http://…/v2/models/<model>/infer}

and drops every other variable of the container. SERVING_HOST is 127.0.0.1 unless the image sets it.

POST `/v2/models/<name>/infer` takes one tensor, and under `parameters.explain_parameters` a seed and options
for this explanation. As from `mlserver_alibi_explain`, the only output is called `explanation`: one string
of JSON, byte for byte what the explain server answers. POST `/explain` answers with that JSON alone, and GET
`/metrics` with the explain server's metrics.

- `runtime`   ExplainModel, the MLModel
- `__main__`  the program
"""

from __future__ import annotations

TAGS = {
    "anchor_image": "AnchorImages",
    "anchor_tabular": "AnchorTabular",
    "anchor_text": "AnchorText",
    "kernel_shap": "KernelShap",
    "integrated_gradients": "IntegratedGradients",
    "tree_shap": "TreeShap",
    "ALE": "ALE",
}
"""What MLServer calls a method -> what Seldon's CRD calls it."""

RUNTIME = "helpers.serving.mlserver_explain.runtime.ExplainModel"

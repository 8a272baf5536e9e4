"""The explain server: alibi's explainers behind HTTP, asking the deployed model for predictions.

Arguments, paths and responses are those of Seldon's alibiexplainer 1.19.
`python -m helpers.serving.explain --help` lists the arguments.

- `cli`            arguments and environment
- `app`            the HTTP side
- `service`        what is loaded, whether the model answers, one explanation at a time
- `methods`        one module for each method, behind the interface in `methods.base`
- `production`     cache, redaction, signatures and the like: options that are off unless set
- `model_client`   predictions of the deployed model, over HTTP
- `reuse`          each distinct input is predicted once in an explanation
- `image_sampling` AnchorImage's sampler, which builds each distinct image once
- `text_sampling`  AnchorText's sampler, which keeps masks instead of texts
- `lean_alibi`     lets alibi be imported in parts, and without TensorFlow
- `measures`       what is counted and timed
"""

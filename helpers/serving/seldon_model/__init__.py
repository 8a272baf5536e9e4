"""Models over the seldon protocol: the real seldon-core-microservice, on loopback only.

    python -m helpers.serving.seldon_model helpers.serving.seldon_model.sklearn_server.SKLearnServer

- `__main__`        starts `seldon_core.microservice`, bound to 127.0.0.1, without gRPC
- `sklearn_server`  the model of the implementation SKLEARN_SERVER
- `tfserving_proxy` that of TENSORFLOW_SERVER: Seldon's proxy and TensorFlow Serving in one
- `errors`          refusals as JSON with their own status
"""

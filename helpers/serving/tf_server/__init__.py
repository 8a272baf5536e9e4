"""TensorFlow Serving's REST API for one SavedModel, where the real program is not installed.

    python -m helpers.serving.tf_server --rest_api_port=8501 --model_name=classifier \\
        --model_base_path=artifacts/cifar10/resnet32

- `app`        the paths, status and error answers of tensorflow_model_server
- `tensors`    JSON bodies to numpy arrays, in row and column form
- `row_reader` the same for the usual body, ten times faster
- `results`    arrays to the JSON answer
- `batching`   requests that wait together are computed together
- `specs`      what a model takes and gives
- `versions`   finds the newest version folder
- `metrics`    what the server says of itself
- `model`      the SavedModel: the only module here that imports TensorFlow, and only once it loads

The REST API as in tensorflow/serving, tensorflow_serving/g3doc/api_rest.md. Not served: gRPC,
classify and regress, version labels, several models.
"""

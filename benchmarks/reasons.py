"""Why a target is missed, by the key of its row; shown where it is missed, and checked against the profiles."""

from __future__ import annotations

REASONS = {
    "share_32": (
        "Load generator, gateway and model server share the cores that the model in process has for itself. "
        "On these cores every prediction costs the model's own time and, on top of it, the gateway's and two HTTP "
        "servers' time for an image as JSON; the table of the parts under Scale has each. The profiles show no single "
        "cause: writing the body to the next socket, the event loop, reading numbers. With cores of its own for the "
        "gateway, as on a cluster, the model server keeps its cores for the model."
    ),
    "logging_paced": (
        "A prediction with its payloads logged is two events, each written to disk by the broker, delivered, and "
        "written again by the payload log: the table of the parts under Scale has what each takes. Here they take it "
        "from the cores that the model computes on, once the prediction is answered: what is left is what they still "
        "do as the next one comes. On a cluster broker and log have their own cores."
    ),
    "logging_throughput": (
        "All cores are busy, so what broker and payload log take is missing: the loss is their share of "
        "the processor time of one prediction. The gateway's own part is the difference of the last column in "
        "the table of predictions; the profiles of broker and log show no single cause: commits, which wait for the "
        "disk as well, HTTP on either side, reading JSON."
    ),
    "anchor_reuse": (
        "Without the reuse the same explainer asks for all its samples in a few large requests, which the model "
        "answers at its best rate. With it one request is left, and about half of the processor time that remains is "
        "the model's, for the distinct images; the rest is alibi's own search, SLIC's segmentation and JSON, which "
        "reuse cannot shorten (cProfile with model and explainer in one process, and the profile of the explainer "
        "below). A smaller `binary_cache_size` takes a quarter off the explainer's own part, since alibi sets some "
        "ten megabytes to zero for every search, but changes `num_preds` in the answer, so the default is alibi's. "
        "The slower the model, the larger the factor."
    ),
    "anchor_made": "The time is alibi's own search and one request to the model; see the profile of the explainer.",
    "anchor_cached": "The body of an image is read, hashed and answered; see the profile of the explainer.",
    "gradients_batch": (
        "alibi calls the network eagerly, `internal_batch_size` points at a time (100, Seldon's default), and by "
        "cProfile some two thirds of the time are Python's dispatch of single TensorFlow operations. All points in one "
        "call cost the explainer less than half: see the row with `--internal_batch_size=1000`, which is what to set "
        "for a network this small."
    ),
    "gateway_latency": "The gateway is one more HTTP server and client; see its profile.",
    "drift_constant": "An event costs its encoding and the reading of its JSON; see the table of windows.",
}

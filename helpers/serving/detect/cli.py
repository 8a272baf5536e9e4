"""The arguments of the detect server, which are those of Seldon's alibi-detect-server 1.19.

    python -m helpers.serving.detect --model_name cifar10-outlier --http_port 8080 \
        --protocol tensorflow.http --storage_uri s3://walkthrough/cifar10/outlier_vae \
        --event_source io.seldon.serving.cifar10-outlier \
        --event_type io.seldon.serving.inference.outlier OutlierDetector

What the environment may set besides:

    ALIBI_DETECT_RETURN_INSTANCE_SCORE, ALIBI_DETECT_RETURN_FEATURE_SCORE   true: in every reply
    ALIBI_DETECT_DRIFT_TYPE_FEATURE                                         true: drift of each feature
    ALIBI_DETECT_SEED          0, the seed of an OutlierVAE's draws; `none` draws anew for each request
    FORWARD_INLIERS_URL, FORWARD_INLIERS_TYPE                               see `forwarding`
    PAYLOAD_LOG_URL            where --elasticsearch_uri is not given
    SERVING_HOST               127.0.0.1, the address to listen on; in a container 0.0.0.0
    SELDON_DEPLOYMENT_ID, PREDICTOR_ID, … the labels of the metrics, see `exposition`
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from helpers.errors import WalkthroughError
from helpers.serving.common.server import run
from helpers.serving.detect.app import DetectServer, Settings, make_app
from helpers.serving.detect.verdict import Detector
from helpers.serving.payloads import FEEDBACK, PROTOCOLS, TENSORFLOW, V2

DEFAULT_PORT = 8080
OUTLIER = "OutlierDetector"
DRIFT = "DriftDetector"
METRICS = "MetricsServer"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.serving.detect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model_name", default="model", help="this server's name")
    parser.add_argument("--http_port", type=int, default=DEFAULT_PORT, help="port to listen on")
    parser.add_argument(
        "--protocol",
        type=lambda name: V2 if name == "kfserving.http" else name,
        choices=PROTOCOLS,
        default=TENSORFLOW,
        help="protocol of the payloads",
    )
    parser.add_argument("--storage_uri", required=True, help="the artefact, or the metrics server")
    parser.add_argument("--reply_url", default="", help="also post results there; normally empty")
    parser.add_argument("--event_source", default="", help="source of the result events")
    parser.add_argument("--event_type", default="", help="type of the result events")
    parser.add_argument(
        "--elasticsearch_uri",
        default=os.environ.get("PAYLOAD_LOG_URL", ""),
        help="payload log in which feedback without a response is looked up",
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser(OUTLIER)
    drift = kinds.add_parser(DRIFT)
    drift.add_argument("--drift_batch_size", type=int, default=1000, help="rows of a window")
    kinds.add_parser(METRICS)
    return parser


def build(args: argparse.Namespace) -> DetectServer:
    """Return the server that the arguments describe, its detector not loaded yet.

    Raises:
        WalkthroughError: an argument or a variable of the environment that cannot be.
    """
    from helpers.serving.detect.forwarding import Sender, forwarder_from_environment

    settings = Settings(
        args.model_name, args.protocol, args.event_type, args.event_source, args.reply_url
    )
    forwarder = None
    if args.kind == OUTLIER:
        forwarder = forwarder_from_environment(args.protocol, settings.source)
    sender = Sender(args.reply_url) if args.reply_url else None
    return DetectServer(_detector(args), settings, forwarder, sender)


def _detector(args: argparse.Namespace) -> Detector:
    # Imported where they are needed: a metrics server starts in a fraction of a second.
    if args.kind == METRICS:
        from helpers.serving.detect.completion import PayloadLog
        from helpers.serving.detect.feedback import MetricsServer

        payload_log = PayloadLog(args.elasticsearch_uri) if args.elasticsearch_uri else None
        return MetricsServer(args.storage_uri, payload_log)
    from helpers.serving.storage import locate

    location = locate(args.storage_uri)
    if args.kind == OUTLIER:
        from helpers.serving.detect.outlier import OutlierDetector, options_from_environment

        return OutlierDetector(location, args.protocol, options_from_environment())
    from helpers.serving.detect.drift import DriftDetector, drift_type_from_environment

    return DriftDetector(
        location, args.protocol, args.drift_batch_size, drift_type_from_environment()
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until told to stop; a wrong argument or artefact ends the process with one sentence."""
    told = parser()
    args = told.parse_args(argv)
    if (args.kind == METRICS) != (args.protocol == FEEDBACK):
        told.error(f"--protocol {FEEDBACK} goes with {METRICS}, and the others with detectors")
    try:
        server = build(args)
    except WalkthroughError as problem:
        sys.exit(f"{args.model_name}: {problem}")
    run(
        lambda: make_app(server, _give_up),
        name=args.model_name,
        port=args.http_port,
        host=os.environ.get("SERVING_HOST", "127.0.0.1"),
    )


def _give_up(sentence: str) -> None:
    """End the process: without its detector it has nothing to serve, and who started it sees why."""
    print(sentence, file=sys.stderr, flush=True)
    os._exit(1)

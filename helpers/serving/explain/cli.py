"""The arguments of the explain server, which are those of Seldon's alibiexplainer 1.19.

    python -m helpers.serving.explain --model_name=cifar10 --predictor_host=127.0.0.1:8000 \
        --protocol=tensorflow.http --http_port=9000 --storage_uri=s3://walkthrough/cifar10/anchor_images \
        AnchorImages --tf_data_type=float32 --threshold=0.9

After the method come its options, `explainer.config` in a manifest, and those of production, which every method
has: see `production.settings`. What the environment may set besides:

    STORAGE_URI                                      where --storage_uri is not given; Seldon's operator passes
                                                     /mnt/models, where it has copied the artefact
    EXPLAIN_RANDOM_SEED, EXPLAIN_RANDOM_SEED_VALUE   True and a number: the seed of requests without one
    EXPLAIN_REUSE_PREDICTIONS                        false: ask the model about every sample, to compare
    SERVING_HOST                                     127.0.0.1, the address to listen on; in a container 0.0.0.0
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from helpers.errors import WalkthroughError
from helpers.serving.common.errors import ServingError
from helpers.serving.common.server import run
from helpers.serving.explain.app import ExplainServer, make_app
from helpers.serving.explain.methods import METHODS, method_class
from helpers.serving.explain.methods.base import Options
from helpers.serving.explain.model_client import ModelClient
from helpers.serving.explain.production.settings import ProductionSettings, read_settings
from helpers.serving.explain.reuse import ReusedPredictions
from helpers.serving.explain.service import ExplainService
from helpers.serving.payloads import SELDON, TENSORFLOW
from helpers.serving.storage import locate_downloaded

DEFAULT_PORT = 9000


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.serving.explain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model_name", default="explainer", help="name of the explained model")
    parser.add_argument("--predictor_host", default="", help="host:port of the model")
    parser.add_argument("--protocol", choices=(SELDON, TENSORFLOW), default=SELDON)
    parser.add_argument("--http_port", type=int, default=DEFAULT_PORT, help="port to listen on")
    parser.add_argument(
        "--storage_uri", default=os.environ.get("STORAGE_URI", ""), help="the explainer's artefact"
    )
    parser.add_argument("--tf_data_type", default=None, help="type of the numbers in the inputs")
    methods = parser.add_subparsers(dest="method", required=True)
    for name in METHODS:
        method = methods.add_parser(name, allow_abbrev=False)
        # Seldon's operator writes it here; argparse keeps the parsers' options apart.
        method.add_argument("--tf_data_type", default=argparse.SUPPRESS)
        for option in method_class(name).options.model_fields:
            method.add_argument(f"--{option}", dest=f"option.{option}", default=argparse.SUPPRESS)
        production = method.add_argument_group("production", "see production.settings")
        for option in ProductionSettings.model_fields:
            production.add_argument(
                f"--{option}",
                dest=f"production.{option}",
                metavar=option.rpartition("_")[2].upper(),
                default=argparse.SUPPRESS,
            )
    return parser


def build(args: argparse.Namespace) -> ExplainServer:
    """Return the server that the arguments describe, its explainer not loaded yet.

    Raises:
        WalkthroughError: an argument that cannot be.
    """
    kind = method_class(args.method)
    method = kind(args.tf_data_type)
    if not args.storage_uri:
        raise ServingError(f"{args.method} needs --storage_uri, the artefact of the explainer.")
    predictions = None
    if kind.asks_model:
        if not args.predictor_host:
            raise ServingError(f"{args.method} needs --predictor_host, host:port of the model.")
        reuse = os.environ.get("EXPLAIN_REUSE_PREDICTIONS", "true").strip().lower() != "false"
        client = ModelClient(args.predictor_host, args.protocol, args.model_name)
        predictions = ReusedPredictions(client, reuse)
        if hasattr(method, "reuse"):
            method.reuse = reuse
    return ExplainServer(
        ExplainService(args.model_name, method, locate_downloaded(args.storage_uri), predictions),
        method=args.method,
        options=read_options(kind.options, args),
        model_name=args.model_name,
        protocol=args.protocol,
        settings=read_settings(_given("production.", args), args.method, kind.asks_model),
    )


def _given(group: str, args: argparse.Namespace) -> dict[str, str]:
    return {
        name.removeprefix(group): value
        for name, value in vars(args).items()
        if name.startswith(group)
    }


def read_options(kind: type[Options], args: argparse.Namespace) -> Options:
    """Return the method's options from the command line.

    Raises:
        ServingError: a value is not one of the option's.
    """
    try:
        return kind.model_validate(_given("option.", args))
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        raise ServingError(f"--{first['loc'][0]}={first['input']}: {first['msg']}.") from problem


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until told to stop; a wrong argument or artefact ends the process with one sentence."""
    args, unknown = parser().parse_known_args(argv)
    if unknown:
        option = unknown[0].partition("=")[0]
        sys.exit(
            f"{args.model_name}-explainer: {args.method} has no option {option}; "
            f"`python -m helpers.serving.explain {args.method} --help` lists those it has."
        )
    try:
        server = build(args)
    except WalkthroughError as problem:
        sys.exit(f"{args.model_name}-explainer: {problem}")
    run(
        lambda: make_app(server, _give_up),
        name=f"{args.model_name}-explainer",
        port=args.http_port,
        host=os.environ.get("SERVING_HOST", "127.0.0.1"),
    )


def _give_up(sentence: str) -> None:
    """End the process: without its explainer it has nothing to serve, and who started it sees why."""
    print(sentence, file=sys.stderr, flush=True)
    os._exit(1)

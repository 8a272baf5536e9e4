"""`make train`: every artefact of a data set from scratch, or the one that is named."""

from __future__ import annotations

import shutil
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from helpers.errors import DataError, WalkthroughError

console = Console(stderr=True)


def main(
    dataset: Annotated[
        str, typer.Option(help="cifar10, digits, credit_risk, breast_cancer or tickets")
    ] = "cifar10",
    only: Annotated[
        list[str] | None, typer.Option(help="Train just this artefact; may be repeated.")
    ] = None,
    restart: Annotated[
        bool, typer.Option(help="Forget an unfinished training instead of going on with it.")
    ] = False,
) -> None:
    """Train, measure and save the artefacts; an interrupted training goes on where it stopped."""
    try:
        _train_all(dataset, only or [], restart)
    except WalkthroughError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None


def _train_all(dataset: str, only: list[str], restart: bool) -> None:
    from helpers import artifacts, cards, data
    from helpers.train import pipeline

    known = (*data.DATASETS, *data.TABLES, *data.TEXTS)
    if dataset not in known:
        raise DataError(f"There is no data set {dataset!r}. Choose one of: {', '.join(known)}.")
    for name in only:
        pipeline.check(dataset, name)
    if dataset in data.TABLES:
        loaded = data.load_table(dataset)
    elif dataset in data.TEXTS:
        loaded = data.load_texts(dataset)
    else:
        loaded = data.load(dataset, fallback=False)
    for name in only or pipeline.names(loaded.name):
        if restart:
            shutil.rmtree(pipeline.workdir(loaded.name, name), ignore_errors=True)
        console.rule(f"{loaded.name}/{name}")
        artifact = pipeline.train(loaded, name)
        console.print(artifact.figures)
        console.print(f"saved: {cards.size(artifact.bytes)}")
    if loaded.name in artifacts.COMMITTED:
        cards.main()


if __name__ == "__main__":
    typer.run(main)

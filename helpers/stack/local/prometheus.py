"""How the local stack runs Prometheus, where that program is installed.

It asks the stack's control API for what to scrape, so servers come and go without a change here. Flags and
settings are those that Debian 12's Prometheus 2.42 and 3.x both know.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from helpers.errors import StackError
from helpers.stack.local.spec import ServerSpec

NAME = "prometheus"
JOB = "walkthrough"
MISSING = (
    "There is no Prometheus: the program `prometheus` is not on PATH. Install it (Debian, Ubuntu: "
    "`apt-get install prometheus`; others: https://prometheus.io/download), then run "
    "`python -m helpers.stack down` and apply again."
)
SCRAPE_INTERVAL = "1s"  # a notebook lasts a minute, and its panels should show more than two points
REFRESH_INTERVAL = "1s"
RETENTION_TIME = "2d"
RETENTION_SIZE = "256MB"
LONGEST_QUERY = "20s"
RULES_SUFFIX = ".rules.yml"
LARGEST_BODY = "16MB"  # of one scrape

Target = tuple[str, str, Mapping[str, str]]


def find_prometheus() -> Path | None:
    """Return the `prometheus` program on PATH; None where there is none, and MISSING says so."""
    found = shutil.which("prometheus")
    return Path(found) if found else None


def configuration(
    targets_url: str,
    token_file: str | Path,
    *,
    rules: str | Path | None = None,
    scrape_interval: str = SCRAPE_INTERVAL,
    refresh_interval: str = REFRESH_INTERVAL,
) -> str:
    """Return the YAML of `prometheus.yml`: one job, whose targets `targets_url` lists.

    Args:
        targets_url: of the control API, `http://127.0.0.1:<port>/v1/targets`.
        token_file: holds the control API's token, sent as `Authorization: Bearer`.
        rules: folder of the files of rules; it need not be there.
        scrape_interval: also the limit of one scrape and the interval between two evaluations of the
            rules, e.g. "1s".
        refresh_interval: between two looks at `targets_url`.
    """
    job = {
        "job_name": JOB,
        # The labels that servers give themselves stay: the gateway tells the pods of others.
        "honor_labels": True,
        "body_size_limit": LARGEST_BODY,
        "http_sd_configs": [
            {
                "url": targets_url,
                "refresh_interval": refresh_interval,
                "authorization": {
                    "type": "Bearer",
                    "credentials_file": str(Path(token_file).absolute()),
                },
            }
        ],
    }
    times = {"scrape_interval": scrape_interval, "scrape_timeout": scrape_interval}
    whole: dict[str, object] = {"global": times, "scrape_configs": [job]}
    if rules is not None:
        times["evaluation_interval"] = scrape_interval
        whole["rule_files"] = [f"{Path(rules).absolute()}/*{RULES_SUFFIX}"]
    return yaml.safe_dump(whole, sort_keys=False)


def spec(
    targets_url: str,
    token_file: str | Path,
    folder: str | Path,
    rules: str | Path | None = None,
) -> ServerSpec:
    """Return the server that Prometheus is.

    Args:
        targets_url: as for `configuration`.
        token_file: as for `configuration`.
        folder: where it keeps its data, also from one start to the next.
        rules: as for `configuration`. It reads them anew on SIGHUP.

    Raises:
        StackError: the program is not installed.
    """
    program = find_prometheus()
    if program is None:
        raise StackError(MISSING)
    return ServerSpec(
        name=NAME,
        owner="stack",
        command=(
            str(program),
            "--config.file={folder}/prometheus.yml",
            "--web.listen-address=127.0.0.1:{port}",
            f"--storage.tsdb.path={Path(folder).absolute()}",
            f"--storage.tsdb.retention.time={RETENTION_TIME}",
            f"--storage.tsdb.retention.size={RETENTION_SIZE}",
            f"--query.timeout={LONGEST_QUERY}",
            # Hidden in both, 5s by default: how long a new server waits for its first scrape.
            f"--scrape.discovery-reload-interval={REFRESH_INTERVAL}",
            "--log.level=warn",
        ),
        files={"prometheus.yml": configuration(targets_url, token_file, rules=rules)},
        ready_path="/-/ready",
        metrics_path=None,
        recreate=True,  # two of them cannot share the folder
    )


def targets(servers: Iterable[Target]) -> list[dict[str, object]]:
    """Return what `targets_url` answers, the JSON of Prometheus' HTTP service discovery.

    Args:
        servers: of each its `host:port`, the path of its metrics, and labels for all its samples.
    """
    return [
        {
            "targets": [address],
            "labels": {
                "__metrics_path__": path,
                **{name: str(value) for name, value in labels.items()},
            },
        }
        for address, path, labels in servers
    ]

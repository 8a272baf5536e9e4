"""kind/up with fake programs: order, idempotence, interruptions, parts."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

STEPS = [
    "check",
    "cluster",
    "image",
    "istio",
    "eventing",
    "minio",
    "seldon",
    "monitoring",
    "logging",
    "walkthrough",
]


def steps(output: str) -> dict[str, str]:
    """Return what `up` said of each of its steps."""
    lines = [line.split(maxsplit=2) for line in output.splitlines() if line[2:3] == "/"]
    return {name: text for _, name, text in lines}


def test_steps_are_done_in_this_order(whole: SimpleNamespace) -> None:
    assert whole.first_status == 0, whole.first
    assert list(steps(whole.first)) == STEPS
    order = [
        "kind create cluster",
        "components/namespaces.yaml",
        "docker build",
        "kind load docker-image",
        "helm upgrade --install istio-base base ",
        "helm upgrade --install istiod istiod ",
        "helm upgrade --install istio-ingressgateway gateway ",
        "components/istio.yaml",
        "eventing-crds.yaml",
        "eventing-core.yaml",
        "in-memory-channel.yaml",
        "mt-channel-broker.yaml",
        "components/knative.yaml",
        "components/minio.yaml",
        "components/minio-fill.yaml",
        "helm upgrade --install seldon-core-operator seldon-core-operator ",
        "helm upgrade --install monitoring kube-prometheus-stack ",
        "components/monitoring.yaml",
        "components/elasticsearch.yaml",
        "manifests/overlays/kind-core",
        "manifests/overlays/kind-logging",
        "manifests/monitoring",
    ]
    assert [
        part
        for call in whole.changes
        for part in order
        if part in call and " annotate " not in call
    ] == order


@pytest.mark.parametrize(
    ("before", "ready", "after"),
    [
        ("kind create", "wait node --all --for=condition=Ready", "docker build"),
        (
            "upgrade --install istiod",
            "deployment/istiod --timeout",
            "upgrade --install istio-ingressgateway",
        ),
        (
            "eventing-crds.yaml",
            "wait customresourcedefinitions --for=condition=Established",
            "eventing-core.yaml",
        ),
        ("eventing-core.yaml", "deployment/eventing-webhook --timeout", "in-memory-channel.yaml"),
        (
            "mt-channel-broker.yaml",
            "deployment/mt-broker-ingress --timeout",
            "components/knative.yaml",
        ),
        (
            "apply --server-side --force-conflicts --field-manager=kind-up -f",
            "statefulset/minio --timeout",
            "minio-fill",
        ),
        ("minio-fill.yaml", "wait job/minio-fill", "upgrade --install seldon-core-operator"),
        (
            "upgrade --install seldon-core-operator",
            "deployment/seldon-controller-manager --timeout",
            "install monitoring",
        ),
        (
            "install monitoring",
            "statefulset/prometheus-monitoring-prometheus --timeout",
            "components/elasticsearch",
        ),
        (
            "components/elasticsearch.yaml",
            "statefulset/elasticsearch --timeout",
            "overlays/kind-core",
        ),
        ("overlays/kind-logging", "deployment/event-log --timeout", "manifests/monitoring"),
    ],
)
def test_it_waits_for_what_the_next_step_needs(
    whole: SimpleNamespace, before: str, ready: str, after: str
) -> None:
    def index(part: str) -> int:
        return next(
            number
            for number, call in enumerate(whole.calls)
            if part in call and " diff " not in call
        )

    assert index(before) < index(ready) < index(after)


def test_the_summary_says_where_everything_is_and_what_to_run(whole: SimpleNamespace) -> None:
    summary = whole.first[whole.first.index("Ready after") :]
    for name in ("INGRESS", "BROKER", "PROMETHEUS", "GRAFANA", "ELASTICSEARCH"):
        assert f"http://127.0.0.1:{whole.sandbox.port(name)}" in summary
    assert "admin / walkthrough-demo-only" in summary
    assert "make run BACKEND=kind" in summary
    assert "make kind-down" in summary


def test_every_chart_is_pinned_and_has_its_values(whole: SimpleNamespace) -> None:
    charts = [call for call in whole.changes if call.startswith("helm upgrade")]
    assert len(charts) == 5
    for call in charts:
        words = call.split()
        assert "--version" in words
        values = Path(words[words.index("--values") + 1])
        assert values.name == f"{words[4]}.yaml"
        assert values.is_file()


def test_a_second_up_changes_nothing_and_says_so(whole: SimpleNamespace) -> None:
    assert whole.second_status == 0, whole.second
    assert whole.second_changes == []
    said = steps(whole.second)
    assert [name for name in STEPS if said[name].startswith("unchanged")] == STEPS[1:]


def test_other_values_upgrade_that_chart_only(standing) -> None:
    values = standing.repository / "kind/values/istiod.yaml"
    values.write_text(values.read_text() + "\npilot: {}\n")
    result = standing.run("up", PARTS="core")
    assert result.returncode == 0, result.stdout
    assert [call.split()[3] for call in standing.changes()] == ["istiod"]
    assert steps(result.stdout)["istio"].startswith("installed")
    assert steps(result.stdout)["seldon"].startswith("unchanged")


def test_again_does_a_step_although_nothing_has_changed(standing) -> None:
    result = standing.run("up", PARTS="core", AGAIN="seldon")
    assert result.returncode == 0, result.stdout
    assert [call.split()[3] for call in standing.changes()] == ["seldon-core-operator"]


def test_other_code_or_artefacts_are_built_loaded_and_put_into_the_bucket(standing) -> None:
    (standing.repository / "artifacts/a.txt").write_text("trained again")
    result = standing.run("up", PARTS="core")
    assert result.returncode == 0, result.stdout
    changes = [call for call in standing.changes() if " annotate " not in call]
    assert [
        part
        for call in changes
        for part in ("docker build", "kind load", "minio-fill")
        if part in call
    ] == [
        "docker build",
        "kind load",
        "minio-fill",
    ]
    assert len(changes) == 3
    assert steps(result.stdout)["image"].startswith("built and loaded")


def test_what_is_not_in_the_image_does_not_build_it_again(standing) -> None:
    for name in (
        "helpers/stack/x.py",
        "helpers/__pycache__/x.pyc",
        "artifacts/digits/m.h5",
        "artifacts/.a.lock",
    ):
        path = standing.repository / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    result = standing.run("up", PARTS="core")
    assert steps(result.stdout)["image"].startswith("unchanged")
    assert standing.changes() == []


def test_another_cluster_yaml_is_said_to_need_a_new_cluster(standing) -> None:
    path = standing.repository / "kind/cluster.yaml"
    path.write_text(path.read_text() + "# other ports\n")
    result = standing.run("up", PARTS="core")
    assert result.returncode == 0, result.stdout
    assert "make kind-down first" in steps(result.stdout)["cluster"]
    assert standing.changes() == []


def test_nodes_that_docker_has_stopped_are_started(standing) -> None:
    (standing.fake / "stopped").touch()
    result = standing.run("up", PARTS="core")
    assert result.returncode == 0, result.stdout
    assert standing.changes() == ["docker start walkthrough-worker"]


def test_interrupted_and_repeated(sandbox, until: Callable) -> None:
    (sandbox.fake / "hang").write_text("upgrade --install istiod\n")
    process = sandbox.start("up", PARTS="core")
    until(lambda: (sandbox.fake / "hanging").is_file())
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted in step 4 of 7, istio. make kind-up goes on from here" in output

    (sandbox.fake / "hang").unlink()
    sandbox.forget()
    result = sandbox.run("up", PARTS="core")
    assert result.returncode == 0, result.stdout
    assert not sandbox.calls("kind create")
    assert not sandbox.calls("docker build")
    assert not sandbox.calls("upgrade --install istio-base")
    assert len(sandbox.calls("upgrade --install istiod")) == 1


def test_a_half_made_cluster_is_made_anew(sandbox, until: Callable) -> None:
    (sandbox.fake / "hang").write_text("create cluster\n")
    process = sandbox.start("up", PARTS="core")
    until(lambda: (sandbox.fake / "hanging").is_file())
    process.terminate()
    process.communicate(timeout=60)

    (sandbox.fake / "cluster").touch()  # a node is there, and kind lists it
    (sandbox.fake / "hang").unlink()
    (sandbox.fake / "fail").write_text("docker build\n")  # far enough
    sandbox.forget()
    sandbox.run("up", PARTS="core")
    assert [call.split()[1] for call in sandbox.changes() if call.startswith("kind")] == [
        "delete",
        "create",
    ]


@pytest.mark.parametrize(
    ("status", "first"), [("pending-install", "uninstall"), ("pending-upgrade", "rollback")]
)
def test_what_helm_was_interrupted_in_is_cleared(standing, status: str, first: str) -> None:
    release = standing.fake / "helm/istio-system-istiod"
    release.write_text(release.read_text().replace("deployed", status))
    result = standing.run("up", PARTS="core")
    assert result.returncode == 0, result.stdout
    assert [call.split()[1] for call in standing.changes()] == [first, "upgrade"]


@pytest.mark.parametrize(
    ("helm", "forced"), [("v3.19.0+g3d8990f", False), ("v4.1.4+g05fa379", True)]
)
def test_helm_4_overwrites_what_controllers_have_set(standing, helm: str, forced: bool) -> None:
    """helm 3 does it by itself, and knows no such flag."""
    standing.say("version-helm", helm)
    release = standing.fake / "helm/istio-system-istiod"
    release.write_text(release.read_text().replace("deployed", "pending-upgrade"))
    result = standing.run("up", PARTS="core")
    assert result.returncode == 0, result.stdout
    rollback, upgrade = standing.changes()
    for call in (rollback, upgrade):
        assert call.endswith(" --server-side=true --force-conflicts") == forced
        assert ("--server-side" in call) == forced


def test_parts_that_were_not_asked_for_are_left_out(sandbox) -> None:
    result = sandbox.run("up", PARTS="core")
    assert result.returncode == 0, result.stdout
    assert list(steps(result.stdout)) == [
        step for step in STEPS if step not in ("eventing", "monitoring", "logging")
    ]
    calls = "\n".join(sandbox.changes())
    for absent in (
        "knative",
        "kube-prometheus-stack",
        "elasticsearch.yaml",
        "kind-logging",
        "event-log",
        "manifests/monitoring",
    ):
        assert absent not in calls
    assert "Grafana" not in result.stdout
    assert (
        "Not asked for: logging, for notebooks 04, 06, 07, 08, 10 (PARTS=logging make kind-up)."
        in result.stdout
    )


@pytest.mark.parametrize(
    ("parts", "resolved", "said"),
    [
        ("", "core eventing monitoring logging", ""),
        ("core", "core", ""),
        (
            "logging",
            "core eventing logging",
            "PARTS: also installing core (for logging), eventing (for logging).\n",
        ),
        ("monitoring,core", "core monitoring", ""),
        ("eventing", "core eventing", "PARTS: also installing core (for eventing).\n"),
    ],
)
def test_parts_bring_what_they_need(root: Path, parts: str, resolved: str, said: str) -> None:
    script = '. kind/lib/common.sh; . kind/lib/parts.sh; resolve_parts; echo "$PARTS"'
    result = subprocess.run(
        ["bash", "-euc", script],
        cwd=root,
        env={**os.environ, "PARTS": parts},
        capture_output=True,
        text=True,
    )
    assert result.stdout == f"{said}{resolved}\n"


def test_a_part_that_does_not_exist_is_refused(sandbox) -> None:
    result = sandbox.run("up", PARTS="core,kafka")
    assert result.returncode == 1
    assert (
        "there is no part 'kafka'; the parts are core, eventing, monitoring, logging"
        in result.stdout
    )
    assert sandbox.calls() == []


def test_options_that_do_not_exist_print_the_usage(sandbox) -> None:
    usage = subprocess.run(
        [sandbox.repository / "kind/up", "--parts"],
        capture_output=True,
        text=True,
        env={"PATH": str(sandbox.bin)},
    )
    assert usage.returncode == 2
    assert "PARTS=core,eventing" in usage.stdout

"""What kind/up asks for before it makes anything, and how it says what is missing."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

MISSING = {
    "docker": "docker is not installed: https://docs.docker.com/get-docker/",
    "kind": "kind is not installed: https://kind.sigs.k8s.io/docs/user/quick-start/#installation",
    "kubectl": "kubectl is not installed: https://kubernetes.io/docs/tasks/tools/",
    "helm": "helm is not installed: https://helm.sh/docs/intro/install/",
}


def problems(sandbox, **environment: str) -> list[str]:
    """Run `up`, which must refuse and change nothing; returns its sentences."""
    result = sandbox.run("up", **environment)
    assert result.returncode == 1, result.stdout
    assert "Nothing was changed." in result.stdout
    assert sandbox.changes() == []
    return [line[4:] for line in result.stdout.splitlines() if line.startswith("  - ")]


def passes(sandbox, **environment: str) -> str:
    """Run `up`, which must go on to make the cluster, where it is stopped; returns what it said until then."""
    (sandbox.fake / "fail").write_text("create cluster\n")
    output = sandbox.run("up", **environment).stdout
    assert sandbox.calls("kind create cluster"), output
    return output.split("Step 2 of")[0]


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_program_is_one_sentence_with_where_to_get_it(sandbox, name: str) -> None:
    (sandbox.bin / name).unlink()
    (said,) = problems(sandbox)
    assert said.startswith(MISSING[name])


@pytest.mark.parametrize(
    ("name", "says", "sentence"),
    [
        ("docker", "20.10.24", "docker 20.10.24 is older than {DOCKER_MIN_VERSION}"),
        (
            "kind",
            "kind v0.32.0 go1.25.1 linux/amd64",
            "kind 0.32.0 is older than {KIND_MIN_VERSION}",
        ),
        (
            "kubectl",
            "Client Version: v1.32.4-dispatcher",
            "kubectl 1.32.4 is older than {KUBECTL_MIN_VERSION}",
        ),
        ("helm", "v3.9.10+g1", "helm 3.9.10 is older than {HELM_MIN_VERSION}"),
        (
            "helm",
            "",
            "`helm version --short` says no version of helm (needed: {HELM_MIN_VERSION} or later)",
        ),
    ],
)
def test_a_program_that_is_too_old(
    sandbox, versions: dict[str, str], name: str, says: str, sentence: str
) -> None:
    sandbox.say(f"version-{name}", says)
    (said,) = problems(sandbox)
    assert said.startswith(sentence.format(**versions))
    assert MISSING[name].split(": ")[1] in said


def test_newer_programs_will_do(sandbox) -> None:
    for name, says in (
        ("kind", "kind v1.0.0 go1.27"),
        ("kubectl", "Client Version: v1.40.0"),
        ("helm", "v4.0.1+g1"),
        ("docker", "29.0.0"),
    ):
        sandbox.say(f"version-{name}", says)
    assert "  - " not in passes(sandbox)


def test_podman_under_dockers_name_is_refused(sandbox) -> None:
    sandbox.say("version-docker", "podman version 5.4.2")
    (said,) = problems(sandbox)
    assert "podman in disguise" in said


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.",
            "does not answer: start Docker Desktop",
        ),
        (
            "permission denied while trying to connect to the Docker daemon socket",
            "sudo usermod -aG docker",
        ),
    ],
)
def test_docker_that_does_not_answer(sandbox, error: str, sentence: str) -> None:
    (sandbox.fake / "fail").write_text("docker info\n")
    (sandbox.fake / "error").write_text(error)
    (said,) = problems(sandbox)
    assert sentence in said


def few_gigabytes(sandbox) -> None:
    sandbox.docker_info(memory=8)


def few_gigabytes_on_a_mac(sandbox) -> None:
    sandbox.docker_info(memory=8, system="Docker Desktop")


def few_free_gigabytes(sandbox) -> None:
    sandbox.free_memory(7)


def few_cpus(sandbox) -> None:
    sandbox.docker_info(cpus=2)


def little_disk(sandbox) -> None:
    sandbox.free_disk(9)


def few_watches(sandbox) -> None:
    sandbox.inotify(8192, 512)


def few_instances(sandbox) -> None:
    sandbox.inotify(524288, 128)


def another_architecture(sandbox) -> None:
    sandbox.docker_info(architecture="aarch64")


SHORTAGES = [
    (
        few_gigabytes,
        "This machine has 8 GB of memory, core, eventing, monitoring, logging need about 12",
    ),
    (
        few_gigabytes_on_a_mac,
        "Docker has 8 GB of memory, core, eventing, monitoring, logging need about 12",
    ),
    (
        few_free_gigabytes,
        "Only 7 GB of memory are free, core, eventing, monitoring, logging need about 12",
    ),
    (few_cpus, "Docker has 2 CPUs; at least 4 are needed"),
    (little_disk, "Only 9 GB of disk are free where Docker keeps its images"),
    (few_watches, "fs.inotify.max_user_watches is 8192"),
    (few_instances, "sudo sysctl fs.inotify.max_user_instances=512"),
    (another_architecture, "publish their images for x86_64 only"),
]


@pytest.mark.parametrize(("lack", "sentence"), SHORTAGES)
def test_what_the_machine_lacks(sandbox, lack: Callable, sentence: str) -> None:
    lack(sandbox)
    (said,) = problems(sandbox)
    assert sentence in said


def test_force_turns_shortages_into_warnings(sandbox) -> None:
    few_cpus(sandbox)
    little_disk(sandbox)
    few_watches(sandbox)
    sandbox.free_memory(1)
    said = passes(sandbox, FORCE="1")
    assert said.count("Warning, ignored because of FORCE") == 4


def test_less_needs_less(sandbox) -> None:
    sandbox.docker_info(memory=8)
    sandbox.free_memory(7)
    assert "  - " not in passes(sandbox, PARTS="core")


def test_a_taken_port_is_named(sandbox) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", sandbox.port("GRAFANA")))
        listening.listen()
        (said,) = problems(sandbox, FORCE="1")
    assert f"Port {sandbox.port('GRAFANA')} of this machine, for grafana, is taken" in said


def test_all_problems_are_reported_at_once(sandbox) -> None:
    (sandbox.bin / "helm").unlink()
    sandbox.say("version-kind", "kind v0.20.0 go1.20 linux/amd64")
    few_free_gigabytes(sandbox)
    little_disk(sandbox)
    few_instances(sandbox)
    assert len(problems(sandbox)) == 5


def test_a_cluster_that_stands_is_not_asked_for_its_own_memory_disk_and_ports(sandbox) -> None:
    (sandbox.fake / "cluster").touch()
    few_free_gigabytes(sandbox)
    little_disk(sandbox)
    (sandbox.fake / "fail").write_text("docker build\n")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", sandbox.port("INGRESS")))
        listening.listen()
        sandbox.run("up")
    assert sandbox.calls("docker build")

"""Which cluster is asked, and what is said of one that does not answer as it should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import urllib3
from kubernetes.client.exceptions import ApiException

from helpers import stack as stacks
from helpers.errors import StackError
from helpers.stack import cli
from helpers.stack.kind import addresses, connection
from helpers.stack.kind.client import KindStack
from helpers.stack.kind.problems import explained


def asks(stack) -> str:
    """What is said when the cluster is looked for."""
    with pytest.raises(StackError) as problem:
        stack.check()
    return str(problem.value)


def test_a_cluster_that_is_there(stack, cluster):
    stack.check()
    assert stack.is_empty
    assert cluster.requests[-1][0] == "GET"


def test_the_current_context_does_not_matter(cluster, stack):
    """It is `production` in this kubeconfig, and leads nowhere."""
    assert connection.Api().context == "kind-walkthrough"
    assert stack.status() == []


def test_a_context_by_variable(cluster, reached, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "k", context="kind-mine")))
    with pytest.raises(StackError) as problem:
        KindStack(reached=reached)
    assert "The kubeconfig has no context kind-walkthrough" in str(problem.value)
    assert "It has kind-mine, production, which are left alone." in str(problem.value)
    monkeypatch.setenv("KIND_CONTEXT", "kind-mine")
    KindStack(reached=reached).check()


def test_no_kubeconfig(reached, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(
        StackError,
        match=r"There is no cluster: no kubeconfig at .*/none\. `make kind-up` makes one\.",
    ):
        KindStack(reached=reached)


def test_a_kubeconfig_that_is_none(reached, tmp_path, monkeypatch):
    path = tmp_path / "kubeconfig"
    path.write_text("contexts: 5\n")
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(StackError, match="is no kubeconfig"):
        KindStack(reached=reached)


def test_a_cluster_that_is_stopped(stack, cluster, reached, tmp_path, monkeypatch):
    cluster.port = 1
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "k")))
    told = asks(KindStack(reached=reached))
    assert told.startswith(
        "The cluster kind-walkthrough at http://127.0.0.1:1 does not answer: connection"
    )
    assert "`make kind-up`" in told


def test_credentials_of_an_older_cluster(cluster, reached, tmp_path, monkeypatch):
    cluster.token = "of the cluster before"
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "k")))
    assert "does not accept the credentials" in asks(KindStack(reached=reached))


def test_another_cluster_of_that_name(stack, cluster):
    cluster.namespaces.clear()
    assert asks(stack).endswith("has no namespace walkthrough; `make kind-up` makes it.")


def test_applying_to_another_cluster_of_that_name(stack, cluster, manifest):
    cluster.namespaces.clear()
    with pytest.raises(StackError, match="has no namespace walkthrough"):
        stack.apply(manifest("eventing/broker.yaml"))


def test_a_cluster_that_hangs(stack, cluster, monkeypatch):
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.2)
    cluster.hangs = True
    assert "did not answer in time (looking for the namespace)" in asks(stack)


def test_a_cluster_that_is_overloaded(stack, cluster):
    stack.check()
    cluster.broken = 500, "etcdserver: request timed out"
    assert asks(stack).endswith(
        "cannot do it now (looking for the namespace, 500): etcdserver: request timed out"
    )


def test_what_is_not_allowed(stack, cluster):
    stack.check()
    cluster.broken = 403, 'namespaces "walkthrough" is forbidden: User "x" cannot get resource'
    assert "does not allow it (looking for the namespace)" in asks(stack)


def test_something_else_at_that_port(stack, cluster, tmp_path, reached, monkeypatch):
    """The ingress, for example, after the port was given to another program."""
    text = (
        cluster.kubeconfig(tmp_path / "k")
        .read_text()
        .replace(cluster.url, f"{cluster.url}/ingress/seldon")
    )
    (tmp_path / "k").write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "k"))
    assert "that is no Kubernetes API server (it answers 404" in asks(KindStack(reached=reached))


def test_a_port_that_speaks_no_tls(cluster, reached, tmp_path, monkeypatch):
    path = cluster.kubeconfig(tmp_path / "k")
    path.write_text(path.read_text().replace("http://", "https://"))
    monkeypatch.setenv("KUBECONFIG", str(path))
    told = asks(KindStack(reached=reached))
    assert "does not answer (looking for the namespace)" in told
    assert "SSL" in told


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (
            urllib3.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"),
            "another cluster than that of the kubeconfig",
        ),
        (
            urllib3.exceptions.ReadTimeoutError(None, "/", "Read timed out."),
            "did not answer in time",
        ),
        (ConnectionResetError("reset by peer"), "does not answer (asking): reset by peer."),
        (ApiException(status=0, reason="Handshake status 404"), "asking: Handshake status 404."),
        (ApiException(status=429, reason="Too Many Requests"), "cannot do it now (asking, 429)"),
        (ApiException(status=422, reason="Invalid"), "refuses it (asking, 422): Invalid"),
    ],
)
def test_what_goes_wrong_on_the_way(problem, told):
    with pytest.raises(StackError) as error, explained("asking", "The cluster"):
        raise problem
    assert told in str(error.value)


def test_nothing_is_asked_before_it_is_needed(cluster, reached):
    KindStack(reached=reached)
    assert cluster.requests == []


def test_only_the_groups_that_are_needed_are_asked_for(stack, cluster, manifest):
    stack.apply(manifest("logging/payload-logger.yaml"))
    asked = {path for _, path in cluster.requests if "namespaces" not in path}
    assert asked == {"/version", "/apis", "/api/v1", "/apis/apps/v1"}


def test_nothing_is_written_beside_the_kubeconfig(stack, cluster, tmp_path):
    stack.check()
    assert [path.name for path in tmp_path.iterdir()] == ["kubeconfig"]
    assert not list(Path("/tmp").glob(f"osrcp-*{cluster.port}*"))


def test_the_kubernetes_client_is_imported_only_for_a_cluster():
    """It takes a second and more."""
    program = "import sys; from helpers import stack; stack.connect('local'); print('kubernetes' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False\n"


def test_connecting_as_a_notebook_does(cluster):
    stack = stacks.connect("kind", dataset="digits")
    assert (stack.backend, stack.dataset) == ("kind", "digits")
    assert stack.addresses.ingress == "http://127.0.0.1:8003"


def test_ports_are_those_of_versions_env(root, tmp_path):
    found = addresses.addresses()
    text = (root / "kind/versions.env").read_text()
    for name in ("ingress", "broker", "prometheus", "elasticsearch"):
        (port,) = re.findall(rf"(?m)^PORT_{name.upper()}=(\d+)$", text)
        assert getattr(found, name) == f"http://127.0.0.1:{port}"
    (tmp_path / "versions.env").write_text("PORT_INGRESS=8003\n# PORT_BROKER=1\n")
    with pytest.raises(StackError, match=r"has no PORT_BROKER"):
        addresses.addresses(tmp_path / "versions.env")
    with pytest.raises(StackError, match="cannot be read"):
        addresses.addresses(tmp_path / "none")


# The command line


@pytest.fixture
def run(cluster, capsys, monkeypatch):
    """Return run(*words): exit code, stdout, stderr of the program, on the fake cluster."""

    def run(*words: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["stack", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return run


def test_the_command_line(run, cluster, manifest):
    path = str(manifest("eventing/broker.yaml"))
    assert run("--backend", "kind", "apply", path) == (0, "broker/default created\n", "")
    assert run("wait", "default", "--backend", "kind", "--timeout", "30") == (0, "", "")
    assert run("status", "--backend", "kind") == (0, "Nothing runs.\n", "")
    told = "stack: A cluster is not started here: `make kind-up` does that."
    assert run("--backend", "kind", "up")[0] == told
    assert run("--backend", "kind", "down") == (0, "", "")
    assert not list(cluster.store.of("Broker"))

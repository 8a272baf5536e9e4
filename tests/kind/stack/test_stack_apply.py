"""Applying and deleting on a cluster: what is done is told truly, what is wrong changes nothing."""

from __future__ import annotations

import base64
import copy

import pytest

from helpers.errors import ManifestError, StackError
from helpers.stack import documents
from helpers.stack.kind import objects
from helpers.stack.kind.client import KindStack

WALKTHROUGH = (
    "storage/s3-credentials.yaml",
    "eventing/broker.yaml",
    "logging/payload-logger.yaml",
    "eventing/trigger-payload-logger.yaml",
    "explainers/cifar10-explained.yaml",
    "detectors/outlier-vae.yaml",
    "eventing/trigger-outlier-vae.yaml",
)


def actions(applied) -> list[str]:
    return [one.action for one in applied]


def test_every_manifest_of_the_walkthrough_is_taken(stack, cluster, manifest):
    applied = stack.apply(*map(manifest, WALKTHROUGH))
    assert actions(applied) == ["created"] * 9
    assert str(applied[0]) == "secret/s3-credentials created"
    assert actions(stack.apply(*map(manifest, WALKTHROUGH))) == ["unchanged"] * 9
    stack.wait(timeout=60)
    # By now controllers have written to most of them.
    assert actions(stack.apply(*map(manifest, WALKTHROUGH))) == ["unchanged"] * 9


def test_a_change_is_configured_and_the_rest_is_not(stack, manifest, changed):
    stack.apply(manifest("logging/payload-logger.yaml"))

    def more_memory(deployment, _service):
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        container["resources"]["limits"]["memory"] = "1Gi"

    path = changed("logging/payload-logger.yaml", more_memory)
    assert actions(stack.apply(path)) == ["configured", "unchanged"]


def test_what_a_manifest_no_longer_has_is_taken_away(stack, cluster, manifest):
    stack.apply(manifest("logging/cifar10-logged.yaml"))
    stack.apply(manifest("model/cifar10.yaml"))
    graph = cluster.store.get("SeldonDeployment", "cifar10")["spec"]["predictors"][0]["graph"]
    assert "logger" not in graph


def test_a_key_that_a_secret_no_longer_has_is_taken_away(stack, cluster, manifest, changed):
    stack.apply(manifest("storage/s3-credentials.yaml"))
    key = "RCLONE_CONFIG_S3_PROVIDER"
    data = cluster.store.get("Secret", "s3-credentials")["data"]
    assert base64.b64decode(data[key]) == b"Minio"
    path = changed("storage/s3-credentials.yaml", lambda secret: secret["stringData"].pop(key))
    assert actions(stack.apply(path)) == ["configured"]
    assert key not in cluster.store.get("Secret", "s3-credentials")["data"]


def test_a_status_that_is_written_meanwhile_is_no_change(stack, cluster, manifest, monkeypatch):
    cluster.controllers.paused |= {"knative"}
    stack.apply(manifest("eventing/broker.yaml"))
    api = stack._api
    honest = api.apply

    def late(kind, content, origin, *, dry_run):
        if not dry_run:
            broker = copy.deepcopy(cluster.store.get("Broker", "default"))
            broker["status"] = {"conditions": [{"type": "Ready", "status": "Unknown"}]}
            cluster.change(cluster.store.put, broker)
        return honest(kind, content, origin, dry_run=dry_run)

    monkeypatch.setattr(api, "apply", late)
    assert actions(stack.apply(manifest("eventing/broker.yaml"))) == ["unchanged"]


def test_fields_of_others_are_taken_over_as_kubectl_apply_does(stack, cluster, manifest):
    stack.apply(manifest("logging/payload-logger.yaml"))
    path = ("spec", "replicas")
    cluster.change(cluster.store.edit, "Deployment", "payload-logger", path, 3, "kubectl-scale")
    assert actions(stack.apply(manifest("logging/payload-logger.yaml")))[0] == "configured"
    assert cluster.store.get("Deployment", "payload-logger")["spec"]["replicas"] == 1


def test_what_was_applied_is_marked_beside_the_labels_of_the_manifest(stack, cluster, manifest):
    stack.apply(manifest("model/cifar10.yaml"))
    labels = cluster.store.get("SeldonDeployment", "cifar10")["metadata"]["labels"]
    assert labels[objects.LABEL] == objects.LABEL_VALUE
    assert labels["app.kubernetes.io/part-of"] == "walkthrough"
    assert "app.kubernetes.io/managed-by" not in labels  # Seldon's


def test_another_data_set(cluster, reached, manifest):
    stack = KindStack("digits", reached=reached)
    stack.apply(manifest("model/cifar10.yaml"), manifest("detectors/drift-ks.yaml"))
    graph = cluster.store.get("SeldonDeployment", "cifar10")["spec"]["predictors"][0]["graph"]
    assert graph["modelUri"] == "s3://walkthrough/digits/resnet32"
    pod = cluster.store.get("Deployment", "drift-ks")["spec"]["template"]["spec"]
    assert "--storage_uri=s3:walkthrough/digits/drift_ks" in pod["containers"][0]["args"]
    assert "--drift_batch_size=100" in pod["containers"][0]["args"]


# What is wrong


def nothing_there(cluster) -> bool:
    return not [key for key in cluster.store.objects if key[0] != "Event"]


def test_a_wrong_document_names_file_document_and_field_and_nothing_is_applied(
    stack, cluster, manifest, changed
):
    def typo(_deployment, service):
        service["spec"]["port"] = service["spec"].pop("ports")

    path = changed("logging/payload-logger.yaml", typo)
    with pytest.raises(
        ManifestError, match=r"changed-payload-logger\.yaml, document 2: spec: .*'port'"
    ):
        stack.apply(manifest("eventing/broker.yaml"), path)
    assert nothing_there(cluster)


def test_a_field_that_the_crd_lacks(stack, cluster, changed):
    def typo(deployment):
        deployment["spec"]["predictors"][0]["graph"]["modelURI"] = "s3://x"

    path = changed("model/cifar10.yaml", typo)
    with pytest.raises(
        ManifestError, match=r"changed-cifar10\.yaml: spec\.predictors\[0\]\.graph: .*modelURI"
    ):
        stack.apply(path)
    assert nothing_there(cluster)


def test_a_value_that_is_not_allowed(stack, cluster, changed):
    def wrong(_deployment, service):
        service["metadata"]["labels"] = {"a": "b"}
        service["spec"]["ports"] = [{"port": 80, "protocol": "TCP", "name": "http"}]
        service["spec"].pop("selector")
        service["spec"]["ports"][0].pop("port")

    with pytest.raises(ManifestError, match=r"document 2: spec\.ports\[0\]: 'port' is a required"):
        stack.apply(changed("logging/payload-logger.yaml", wrong))
    assert nothing_there(cluster)


def test_what_a_webhook_denies_is_told_with_its_fields(stack, cluster, manifest):
    cause = {"field": "spec.predictors[0].name", "message": "Duplicate predictor name"}
    said = ("SeldonDeployment cifar10 is invalid", [cause])
    cluster.store.webhooks["SeldonDeployment"] = "v1.vseldondeployment.kb.io", lambda _: said
    with pytest.raises(ManifestError) as problem:
        stack.apply(manifest("eventing/broker.yaml"), manifest("model/cifar10.yaml"))
    assert str(problem.value) == (
        "manifests/model/cifar10.yaml: spec.predictors[0].name: Duplicate predictor name "
        "(refused by v1.vseldondeployment.kb.io)."
    )
    assert nothing_there(cluster)


def test_a_webhook_without_fields(stack, cluster, manifest):
    said = ("validation failed: missing field(s): spec.subscriber.ref", [])
    cluster.store.webhooks["Trigger"] = "validation.webhook.eventing.knative.dev", lambda _: said
    with pytest.raises(
        ManifestError, match=r"trigger-outlier-vae\.yaml: validation failed: .*\(refused by"
    ):
        stack.apply(manifest("eventing/trigger-outlier-vae.yaml"))


def test_a_webhook_that_does_not_answer_is_not_the_manifests_fault(stack, cluster, manifest):
    told = 'Internal error occurred: failed calling webhook "v1.kb.io": connection refused'
    stack.apply(manifest("storage/s3-credentials.yaml"))
    cluster.broken = 500, told
    with pytest.raises(
        StackError, match=r"the webhook v1\.kb\.io.*does not answer.*again"
    ) as problem:
        stack.apply(manifest("model/cifar10.yaml"))
    assert not isinstance(problem.value, ManifestError)


def test_what_is_applied_before_a_failure_is_told(stack, cluster, manifest, monkeypatch):
    api, honest = stack._api, stack._api.apply

    def fails(kind, content, origin, *, dry_run):
        if kind.name == "Trigger" and not dry_run:
            raise StackError("The cluster is gone.")
        return honest(kind, content, origin, dry_run=dry_run)

    monkeypatch.setattr(api, "apply", fails)
    with pytest.raises(StackError, match=r"gone\. Before it: broker/default created"):
        stack.apply(manifest("eventing/broker.yaml"), manifest("eventing/trigger-outlier-vae.yaml"))


def test_a_kind_that_is_not_installed(stack, cluster, manifest):
    cluster.kinds -= {"Broker", "Trigger"}
    with pytest.raises(
        ManifestError, match=r"broker\.yaml: the cluster knows no Broker .*PARTS=eventing"
    ):
        stack.apply(manifest("eventing/broker.yaml"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("kserve/cifar10.yaml", r"kserve/cifar10\.yaml.*InferenceService is for KServe"),
        ("namespace", r"kind: Namespace is not among those that this stack applies"),
        ("elsewhere", r"metadata\.namespace: .*namespace walkthrough, not to default"),
        ("old", r"apiVersion: Deployment is applied as apps/v1, not extensions/v1beta1"),
    ],
)
def test_what_this_stack_does_not_apply(stack, cluster, manifest, tmp_path, name, told):
    made = {
        "namespace": "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n",
        "elsewhere": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: default}\n",
        "old": "apiVersion: extensions/v1beta1\nkind: Deployment\nmetadata: {name: x}\n",
    }
    path = manifest(name)
    if name in made:
        path = tmp_path / "made.yaml"
        path.write_text(made[name])
    with pytest.raises(ManifestError, match=told):
        stack.apply(path)
    assert nothing_there(cluster)


# Deleting


def test_deleting_takes_what_is_owned_along_and_returns_when_it_is_gone(stack, cluster, manifest):
    stack.apply(manifest("explainers/cifar10-explained.yaml"))
    stack.wait(timeout=60)
    assert len(list(cluster.store.of("Pod"))) == 2
    deleted = stack.delete(
        manifest("explainers/cifar10-explained.yaml"), manifest("eventing/broker.yaml")
    )
    assert [str(one) for one in deleted] == ["seldondeployment/cifar10 deleted"]
    assert nothing_there(cluster)
    assert stack.delete(manifest("explainers/cifar10-explained.yaml")) == []


def test_what_is_not_deleted_in_time_is_told(stack, cluster, manifest, monkeypatch):
    monkeypatch.setattr(objects, "GONE_SECONDS", 0.3)
    stack.apply(manifest("logging/payload-logger.yaml"))
    stack.wait(timeout=60)
    cluster.controllers.paused.add("pods")
    with pytest.raises(StackError, match=r"Not deleted after 0\.3 s: Deployment/payload-logger\."):
        stack.delete(manifest("logging/payload-logger.yaml"))


def test_applied_again_while_it_is_being_deleted(stack, cluster, manifest):
    stack.apply(manifest("model/cifar10.yaml"))
    stack.wait(timeout=60)
    before = cluster.store.get("SeldonDeployment", "cifar10")["metadata"]["uid"]
    foreground = {"propagationPolicy": "Foreground"}
    cluster.change(cluster.store.delete, "SeldonDeployment", "cifar10", foreground)
    assert actions(stack.apply(manifest("model/cifar10.yaml"))) == ["created"]
    stack.wait(timeout=60)
    assert cluster.store.get("SeldonDeployment", "cifar10")["metadata"]["uid"] != before


def test_down_deletes_what_was_applied_and_nothing_else(stack, cluster, reached, manifest):
    own = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "payload-log"}}
    cluster.change(cluster.store.put, own)  # kind/up's
    stack.apply(*map(manifest, WALKTHROUGH))
    stack.wait(timeout=60)
    KindStack(reached=reached).down()  # another process
    assert [*cluster.store.objects] == [("ConfigMap", "payload-log")]
    assert stack.status() == []
    stack.down()  # twice is no error


def test_what_was_there_before_is_applied_to_and_stays(stack, cluster, manifest):
    """kind/up applies the credentials of the object store, and so does every notebook."""
    secret = objects.prepare(documents.read([manifest("storage/s3-credentials.yaml")])[0]).content
    cluster.change(cluster.store.apply, secret, "kubectl-client-side-apply")
    applied = stack.apply(manifest("storage/s3-credentials.yaml"), manifest("eventing/broker.yaml"))
    assert actions(applied) == ["unchanged", "created"]
    stack.down()
    assert [*cluster.store.objects] == [("Secret", "s3-credentials")]


def test_down_where_parts_are_not_installed(stack, cluster, manifest):
    cluster.kinds -= {"Broker", "Trigger", "VirtualService", "PrometheusRule"}
    stack.apply(manifest("model/cifar10.yaml"))
    stack.down()
    assert not list(cluster.store.of("SeldonDeployment"))

"""kind/down: leaves nothing, asks nothing, and may be repeated."""

from __future__ import annotations

import pytest

NODE_IMAGE = "kindest_node@sha256_44e222ee2132dab25ff87301682f89eb82c7880ea3a1bf543bfe9708fd08d67d"
OUR_IMAGE = "walkthrough_serving_0.1.0"


def left(sandbox) -> list[str]:
    """Return what is still there of a cluster."""
    paths = [
        "fake/cluster",
        f"fake/images/{NODE_IMAGE}",
        f"fake/images/{OUR_IMAGE}",
        "fake/networks/kind",
    ]
    paths += ["repository/runs/kind"]
    return [path for path in paths if (sandbox.fake.parent / path).exists()]


def test_down_leaves_nothing(standing) -> None:
    assert len(left(standing)) == 5
    result = standing.run("down")
    assert result.returncode == 0, result.stdout
    assert left(standing) == []
    assert standing.calls("kind delete cluster --name walkthrough")


def test_down_twice(standing) -> None:
    standing.run("down")
    standing.forget()
    result = standing.run("down")
    assert result.returncode == 0
    assert "There is no cluster walkthrough." in result.stdout
    assert standing.changes() == []


def test_what_was_there_before_up_stays(sandbox) -> None:
    for name in (f"images/{NODE_IMAGE}", "networks/kind"):
        (sandbox.fake / name).parent.mkdir(exist_ok=True)
        (sandbox.fake / name).touch()
    (sandbox.fake / "fail").write_text("kind load\n")
    sandbox.run("up", PARTS="core")
    (sandbox.fake / "fail").unlink()
    assert sandbox.run("down").returncode == 0
    assert left(sandbox) == [f"fake/images/{NODE_IMAGE}", "fake/networks/kind"]


def test_an_image_in_use_elsewhere_stays(standing) -> None:
    (standing.fake / "fail").write_text("image rm kindest\n")
    result = standing.run("down")
    assert result.returncode == 0
    assert "The image kindest/node is in use elsewhere, and stays." in result.stdout
    assert left(standing) == [f"fake/images/{NODE_IMAGE}"]


def test_images_may_be_kept_and_removed_later(standing) -> None:
    standing.run("down", KEEP_IMAGES="1")
    assert left(standing) == [
        f"fake/images/{NODE_IMAGE}",
        f"fake/images/{OUR_IMAGE}",
        "repository/runs/kind",
    ]
    standing.run("down")
    assert left(standing) == []


@pytest.mark.parametrize("missing", ["docker", "kind"])
def test_without_programs_there_is_nothing_to_remove(sandbox, missing: str) -> None:
    (sandbox.bin / missing).unlink()
    result = sandbox.run("down")
    assert result.returncode == 0
    assert result.stdout == "There is no cluster walkthrough.\n"


def test_without_programs_a_cluster_of_before_cannot_be_removed(standing) -> None:
    (standing.bin / "kind").unlink()
    result = standing.run("down")
    assert result.returncode == 1
    assert "kind and docker are needed to remove the cluster walkthrough" in result.stdout


def test_while_docker_is_stopped_nothing_is_forgotten(standing) -> None:
    info = standing.fake / "docker-info"
    info.rename(info.with_name("away"))
    result = standing.run("down")
    assert result.returncode == 1
    assert "docker does not answer" in result.stdout
    info.with_name("away").rename(info)
    assert standing.run("down").returncode == 0
    assert left(standing) == []

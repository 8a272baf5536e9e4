"""Downloads: from a small server on this machine, in every way in which one can go wrong."""

import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from helpers.data import download
from helpers.data.cifar10 import ARCHIVE, FILES, FOLDER, REPOSITORY
from helpers.errors import DataError


def pack(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return buffer.getvalue()


CONTENT = {f"{FOLDER}/{name}": os.urandom(200_000) + name.encode() for name in FILES}
GOOD = pack(CONTENT | {f"{FOLDER}/readme.html": b"<html>"})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Server:
    """Serves `body` at `url`; counts requests; can cut the body short or answer with an error."""

    def __init__(self):
        self.body, self.status, self.requests = GOOD, 200, 0
        self.delay = 0.0  # seconds before answering
        self.send: int | None = None  # bytes after which the answer breaks off
        self.hold: threading.Event | None = None  # what to wait for before it does
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests += 1
                time.sleep(outer.delay)
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body[: outer.send])
                self.wfile.flush()
                if outer.hold:
                    outer.hold.wait(60)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/{ARCHIVE}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    yield server
    server.close()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"  # not there yet, as in a fresh clone


def fetch(server: Server, folder: Path, checksum: str | None = None) -> Path:
    return download.fetch(folder, server.url, checksum or sha256(server.body))


def assert_whole(found: Path, folder: Path) -> None:
    assert found == folder / FOLDER
    assert {path.name for path in found.iterdir()} == set(FILES)
    for name, content in CONTENT.items():
        assert (folder / name).read_bytes() == content
    assert not (folder / "cifar-10.part").exists()


def test_the_official_checksum_is_the_default():
    assert download.fetch.__defaults__ == (download.URL, download.SHA256)
    assert download.URL == "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    assert len(download.SHA256) == 64


def test_downloads_with_progress_and_unpacks(server, folder, capfd):
    assert_whole(fetch(server, folder), folder)
    assert "100%" in capfd.readouterr().err


def test_what_is_there_is_not_downloaded_again(server, folder):
    fetch(server, folder)
    assert_whole(fetch(server, folder), folder)
    assert server.requests == 1


def test_a_wrong_checksum_is_said_and_the_file_removed(server, folder):
    with pytest.raises(DataError, match=r"sha256 checksum is not 0000.*removed.*run again"):
        fetch(server, folder, checksum="0" * 64)
    assert not (folder / FOLDER).exists()
    assert not any(path.is_file() for path in (folder / "cifar-10.part").iterdir())
    assert_whole(fetch(server, folder), folder)


def test_a_login_page_instead_of_the_archive_is_no_lack_of_network(server, folder):
    server.body = b"<html>Please log in</html>"
    with pytest.raises(DataError, match="login page") as caught:
        fetch(server, folder, checksum=sha256(GOOD))
    assert not isinstance(caught.value, download.DownloadError)


def test_connection_refused(server, folder):
    server.close()
    began = time.monotonic()
    with pytest.raises(download.DownloadError, match=r"no connection.*CIFAR10_DIR.*digits"):
        fetch(server, folder)
    assert time.monotonic() - began < 5
    assert not (folder / FOLDER).exists()


def test_a_silent_server_does_not_hang_us(server, folder, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUTS", (0.2, 0.2))
    server.delay = 1
    with pytest.raises(download.DownloadError, match="no answer in time"):
        fetch(server, folder)


def test_an_error_page_is_named(server, folder):
    server.status = 503
    with pytest.raises(download.DownloadError, match="503 Server Error"):
        fetch(server, folder)


def test_a_body_that_breaks_off_is_never_trusted_and_a_second_try_works(server, folder):
    server.send = len(GOOD) // 2
    with pytest.raises(download.DownloadError, match="the connection broke off"):
        fetch(server, folder)
    assert not (folder / FOLDER).exists()
    server.send = None
    assert_whole(fetch(server, folder), folder)
    assert server.requests == 2


@pytest.mark.parametrize("leftover", ["file", "half archive", "half unpacked"])
def test_leftovers_of_a_killed_run_are_not_trusted(server, folder, leftover):
    part = folder / "cifar-10.part"
    folder.mkdir()
    if leftover == "file":
        part.write_bytes(GOOD[:1000])
    else:
        part.mkdir()
        (part / "tmpabc123").write_bytes(GOOD[:1000])
    if leftover == "half archive":
        (part / ARCHIVE).write_bytes(GOOD[:1000])
    if leftover == "half unpacked":
        (part / FOLDER).mkdir()
        (part / FOLDER / FILES[0]).write_bytes(b"half")
    assert_whole(fetch(server, folder), folder)
    assert server.requests == 1


def test_an_interrupted_unpacking_does_not_download_again(server, folder, monkeypatch):
    with monkeypatch.context() as patched:

        def stopped(*_args, **_options):
            raise KeyboardInterrupt

        patched.setattr(tarfile.TarFile, "extract", stopped)
        with pytest.raises(KeyboardInterrupt):
            fetch(server, folder)
    assert not (folder / FOLDER).exists()
    assert_whole(fetch(server, folder), folder)
    assert server.requests == 1


@pytest.mark.parametrize(
    ("files", "links"),
    [
        ({"../evil": b"x"}, {}),
        ({f"{FOLDER}/../../evil": b"x"}, {}),
        ({"/tmp/evil-of-test-data-download": b"x"}, {}),
        ({f"{FOLDER}/extra": b"x"}, {}),
        ({}, {f"{FOLDER}/data_batch_1": "/etc/passwd"}),
        ({}, {FOLDER + "/link": "/etc"}),
    ],
)
def test_an_archive_with_other_members_is_refused(server, folder, files, links):
    server.body = pack(CONTENT | files, links)
    with pytest.raises(DataError, match="is not CIFAR-10: it holds"):
        fetch(server, folder)
    assert not (folder / FOLDER).exists()
    assert not list(folder.parent.rglob("evil*"))
    assert not Path("/tmp/evil-of-test-data-download").exists()
    assert not (folder / "cifar-10.part" / ARCHIVE).exists()


def test_an_archive_without_a_batch_is_refused(server, folder):
    server.body = pack({k: v for k, v in CONTENT.items() if not k.endswith("data_batch_3")})
    with pytest.raises(DataError, match="data_batch_3 is missing"):
        fetch(server, folder)
    assert not (folder / FOLDER).exists()


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"x" * 100])
def test_a_damaged_archive_is_refused(server, folder, damage):
    server.body = damage(GOOD)
    with pytest.raises(DataError, match="is damaged"):
        fetch(server, folder)
    assert not (folder / FOLDER).exists()


def test_a_folder_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "data").write_text("a file in the way")
    with pytest.raises(DataError, match=r"cannot be put into .*data: .*CIFAR10_DIR"):
        fetch(server, tmp_path / "data")


def fetch_in_a_process(server: Server, folder: Path) -> subprocess.Popen:
    code = (
        "import sys; from pathlib import Path; from helpers.data import download; "
        "download.fetch(Path(sys.argv[1]), *sys.argv[2:])"
    )
    arguments = [str(folder), server.url, sha256(server.body)]
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=REPOSITORY)


def test_several_at_once_share_one_download(server, folder):
    server.delay = 0.5
    children = [fetch_in_a_process(server, folder) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert_whole(folder / FOLDER, folder)
    assert server.requests == 1


def test_a_process_killed_while_downloading_is_no_obstacle(server, folder):
    server.send, server.hold = len(GOOD) // 2, threading.Event()
    child = fetch_in_a_process(server, folder)
    # The half archive lies under a temporary name; wait until some of it does.
    wait_for(lambda: any(p.stat().st_size for p in folder.glob("cifar-10.part/tmp*")))
    child.kill()
    child.wait(10)
    server.hold.set()
    server.send = server.hold = None
    assert_whole(fetch(server, folder), folder)


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_one_that_waits_too_long_says_for_what(server, folder, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0.2)
    with download._workspace(folder), pytest.raises(DataError, match="Another process has held"):
        fetch(server, folder)


def test_a_local_archive_is_unpacked_once_its_checksum_matches(tmp_path, folder):
    archive = tmp_path / "somewhere.tar.gz"
    archive.write_bytes(GOOD)
    assert_whole(download.unpack(archive, folder, sha256(GOOD)), folder)
    assert archive.is_file()


def test_a_local_archive_with_another_checksum_is_not_opened(tmp_path, folder):
    archive = tmp_path / "somewhere.tar.gz"
    archive.write_bytes(GOOD[:5000])
    with pytest.raises(DataError, match=r"somewhere\.tar\.gz is not .*Delete it"):
        download.unpack(archive, folder, sha256(GOOD))
    assert not (folder / FOLDER).exists()

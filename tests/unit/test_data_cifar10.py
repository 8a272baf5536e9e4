"""CIFAR-10: where it is looked for, what is read, and what damaged files say."""

import hashlib
import os
import pickle
import shutil
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from helpers.data import DATASETS, Dataset, cifar10, download, load
from helpers.errors import DataError

SHARED = cifar10.REPOSITORY.parent / "shared" / "cifar10"
N = 20


def write_batches(folder: Path, mark: int = 0) -> Path:
    """Write six small batches; the first pixel of all is `mark`, by which a folder is told."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(mark)
    for name in (*cifar10.BATCHES, "test_batch"):
        data = random.integers(0, 256, (N, 3072), np.uint8)
        data[0, 0] = mark
        batch = {
            b"data": data,
            b"labels": [i % 10 for i in range(N)],
            b"batch_label": name.encode(),
        }
        (folder / name).write_bytes(pickle.dumps(batch, 2))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": []}))
    return folder


def mark_of(dataset: Dataset) -> int:
    return round(float(dataset.x_train[0, 0, 0, 0]) * 255)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine without CIFAR-10 and without network; returns its root."""
    monkeypatch.setattr(cifar10, "IMAGES_PER_BATCH", N)
    monkeypatch.setattr(cifar10, "REPOSITORY", tmp_path / "main")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("CIFAR10_DIR", "KERAS_HOME"):
        monkeypatch.delenv(name, raising=False)

    def fetch(folder):
        raise download.DownloadError(f"no connection; put it into {folder}")

    monkeypatch.setattr(download, "fetch", fetch)
    return tmp_path


@pytest.fixture
def batches(nowhere):
    return write_batches(nowhere / "main" / "data" / cifar10.FOLDER)


class TestReading:
    def test_pixels_labels_and_order(self, batches):
        dataset = load("cifar10")
        assert dataset.name == "cifar10"
        assert dataset.x_train.shape == (5 * N, 32, 32, 3)
        assert dataset.x_test.shape == (N, 32, 32, 3)
        assert dataset.x_train.dtype == dataset.x_test.dtype == np.float32
        assert dataset.y_train.dtype == dataset.y_test.dtype == np.int64
        raw = pickle.loads((batches / "data_batch_3").read_bytes())
        # Rows of the file are 1024 red, then 1024 green, then 1024 blue values, row by row.
        expected = raw[b"data"][4, 1024 + 32 * 7 + 5] / 255
        assert dataset.x_train[2 * N + 4, 7, 5, 1] == pytest.approx(expected)
        assert dataset.y_train[2 * N + 4] == 4

    def test_it_is_the_default(self, batches):
        assert load().name == "cifar10"

    @pytest.mark.parametrize("name", ["data_batch_1", "data_batch_5", "test_batch"])
    def test_a_missing_batch_is_named(self, batches, name):
        (batches / name).unlink()
        with pytest.raises(DataError, match=rf"{name} is missing.*delete .*CIFAR10_DIR"):
            load()

    def test_a_truncated_batch_is_named(self, batches):
        whole = (batches / "data_batch_2").read_bytes()
        (batches / "data_batch_2").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=r"data_batch_2 is not a readable.*fetch"):
            load()

    def test_a_batch_that_executes_code_is_named_and_does_not(self, batches):
        flag = batches.parent / "executed"

        class Hostile:
            def __reduce__(self):
                return os.system, (f"touch {flag}",)

        (batches / "test_batch").write_bytes(pickle.dumps({b"data": Hostile(), b"labels": []}))
        with pytest.raises(DataError, match=r"test_batch is not a readable.* it asks for .*system"):
            load()
        assert not flag.exists()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({b"data": np.zeros((N, 3071), np.uint8)}, r"uint8 \(20, 3071\)"),
            ({b"data": np.zeros((N - 1, 3072), np.uint8)}, r"uint8 \(19, 3072\)"),
            ({b"data": np.zeros((N, 3072), np.float32)}, r"float32 \(20, 3072\)"),
            ({b"data": np.zeros((N, 3072), ">f8")}, ">f8"),
            ({b"data": b"x" * 3072}, "a bytes as images"),
            ({b"data": [[1, 2], [3]]}, "a list as images"),
            ({b"labels": [0] * (N - 1)}, "other labels than a list of 20"),
            ({b"labels": [10] * N}, "other labels"),
            ({b"labels": [-1] * N}, "other labels"),
            ({b"labels": [2**80] * N}, "other labels"),
            ({b"labels": ["cat"] * N}, "other labels"),
            ({b"labels": [True] * N}, "other labels"),
            ({b"labels": None}, "other labels"),
        ],
    )
    def test_other_content_is_named(self, batches, change, message):
        path = batches / "data_batch_4"
        path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes()) | change))
        with pytest.raises(DataError, match=f"data_batch_4 holds .*{message}.*fetch"):
            load()

    def test_other_keys_are_named(self, batches):
        (batches / "data_batch_4").write_bytes(pickle.dumps({b"fine_labels": []}))
        with pytest.raises(DataError, match="data_batch_4 holds no b'data'"):
            load()


class TestSearchOrder:
    PLACES = (
        "main/data/cifar-10-batches-py",
        "shared/cifar10/cifar-10-batches-py",
        "home/.keras/datasets/cifar-10-batches-py",
        "home/.keras/datasets/cifar-10-batches-py-target_extracted/cifar-10-batches-py",
    )

    @pytest.mark.parametrize("first", range(len(PLACES)))
    def test_the_first_place_wins(self, nowhere, first):
        for number in range(first, len(self.PLACES)):
            write_batches(nowhere / self.PLACES[number], mark=number + 1)
        assert mark_of(load()) == first + 1

    @pytest.mark.parametrize("named", ["chosen", "chosen/cifar-10-batches-py"])
    def test_the_environment_goes_before_all(self, batches, nowhere, monkeypatch, named):
        write_batches(nowhere / "chosen" / cifar10.FOLDER, mark=7)
        monkeypatch.setenv("CIFAR10_DIR", str(nowhere / named))
        assert mark_of(load()) == 7

    def test_the_folder_may_have_another_name(self, nowhere, monkeypatch):
        write_batches(nowhere / "mine", mark=8)
        monkeypatch.setenv("CIFAR10_DIR", str(nowhere / "mine"))
        assert mark_of(load()) == 8

    def test_a_tilde_is_understood(self, nowhere, monkeypatch):
        write_batches(nowhere / "home" / "mine", mark=9)
        monkeypatch.setenv("CIFAR10_DIR", "~/mine")
        assert mark_of(load()) == 9

    def test_a_wrong_environment_is_named_and_nothing_else_taken(
        self, batches, nowhere, monkeypatch
    ):
        monkeypatch.setenv("CIFAR10_DIR", str(nowhere / "wrong"))
        with pytest.raises(DataError, match=r"CIFAR10_DIR is .*wrong.*does not exist.*unset it"):
            load()

    def test_an_empty_environment_is_none(self, batches, monkeypatch):
        monkeypatch.setenv("CIFAR10_DIR", "")
        assert load().name == "cifar10"

    def test_keras_may_live_elsewhere(self, nowhere, monkeypatch):
        write_batches(nowhere / "keras" / "datasets" / cifar10.FOLDER, mark=6)
        monkeypatch.setenv("KERAS_HOME", str(nowhere / "keras"))
        assert mark_of(load()) == 6

    @pytest.mark.parametrize(
        "place",
        [
            "main/data/cifar-10-python.tar.gz",
            "home/.keras/datasets/cifar-10-python.tar.gz",
            "home/.keras/datasets/cifar-10-batches-py.tar.gz",
            "home/.keras/datasets/cifar-10-batches-py-target",
        ],
    )
    def test_a_packed_archive_is_used(self, nowhere, monkeypatch, place):
        archive = nowhere / place
        archive.parent.mkdir(parents=True)
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(write_batches(nowhere / "packing", mark=5), cifar10.FOLDER)
        shutil.rmtree(nowhere / "packing")
        checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
        monkeypatch.setattr(download, "unpack", partial(download.unpack, sha256=checksum))
        assert mark_of(load(fallback=False)) == 5
        assert (nowhere / "main" / "data" / cifar10.FOLDER).is_dir()

    def test_a_damaged_archive_is_said_and_passed_over(self, nowhere, capsys):
        archive = nowhere / "home/.keras/datasets/cifar-10-batches-py.tar.gz"
        archive.parent.mkdir(parents=True)
        archive.write_bytes(b"half a download")
        assert load().name == "digits"
        assert "Not used: " in capsys.readouterr().err

    def test_a_download_goes_to_data(self, nowhere, monkeypatch):
        monkeypatch.setattr(
            download, "fetch", lambda folder: write_batches(folder / cifar10.FOLDER, mark=4)
        )
        assert mark_of(load()) == 4
        assert (nowhere / "main" / "data" / cifar10.FOLDER).is_dir()


class TestFallback:
    # "error" as well: where warnings are errors, falling back must not become one.
    @pytest.mark.filterwarnings("error")
    def test_it_is_loud_every_time(self, nowhere, capsys):
        for _ in range(2):
            assert load("cifar10").name == "digits"
            captured = capsys.readouterr()
            assert "CIFAR-10 IS NOT HERE" in captured.err
            assert "no connection; put it into" in captured.err
            assert max(map(len, captured.err.splitlines())) <= max(78, len(str(nowhere)) + 30)
            assert captured.out == ""

    def test_it_can_be_refused(self, nowhere, capsys):
        with pytest.raises(DataError, match="no connection"):
            load("cifar10", fallback=False)
        assert capsys.readouterr().err == ""

    def test_digits_ask_for_nothing(self, nowhere, capsys):
        assert load("digits").name == "digits"
        assert capsys.readouterr().err == ""

    def test_damaged_files_are_no_reason_to_fall_back(self, batches):
        (batches / "test_batch").unlink()
        with pytest.raises(DataError, match="test_batch is missing"):
            load()

    def test_neither_is_a_wrong_archive(self, nowhere, monkeypatch):
        def fetch(folder):
            raise DataError("its sha256 checksum is not")

        monkeypatch.setattr(download, "fetch", fetch)
        with pytest.raises(DataError, match="checksum"):
            load()


@pytest.mark.parametrize("name", ["cifar100", "", None, "CIFAR10"])
def test_an_unknown_name_lists_the_known(name):
    with pytest.raises(DataError, match="Choose one of: cifar10, digits"):
        load(name)
    assert DATASETS == ("cifar10", "digits")


class TestDataset:
    X, Y = np.zeros((2, 32, 32, 3), np.float32), np.zeros(2, np.int64)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"x_train": np.zeros((2, 28, 28, 1), np.float32)},
                r"train has images \(2, 28, 28, 1\)",
            ),
            ({"y_test": np.zeros(3, np.int64)}, r"labels \(3,\)"),
            ({"x_test": X.astype(float)}, "test has float64 images"),
            ({"y_train": Y.astype(np.uint8)}, "uint8 labels"),
            ({"y_train": Y + 2}, "run from 2 to 2, but there are 2 classes"),
            ({"y_train": Y - 1}, "run from -1"),
        ],
    )
    def test_it_refuses_what_does_not_fit(self, change, message):
        fields = {"x_train": self.X, "y_train": self.Y, "x_test": self.X, "y_test": self.Y}
        with pytest.raises(DataError, match=message):
            Dataset("toy", ("a", "b"), **(fields | change))

    def test_it_says_what_it_is(self):
        toy = Dataset("toy", ("a", "b"), self.X, self.Y, self.X, self.Y)
        assert repr(toy) == "Dataset(toy: 2 training and 2 test images of 2 classes)"


@pytest.fixture(scope="class")
def real():
    folder = SHARED / cifar10.FOLDER
    if not folder.is_dir():
        pytest.skip(f"the real CIFAR-10 is not in {folder}")
    return cifar10.read(folder)


class TestReal:
    def test_sizes_and_types(self, real):
        assert real.x_train.shape == (50_000, 32, 32, 3)
        assert real.x_test.shape == (10_000, 32, 32, 3)
        assert real.x_train.dtype == real.x_test.dtype == np.float32
        assert (real.x_test.min(), real.x_test.max()) == (0, 1)
        assert (real.x_train[:5000].min(), real.x_train[:5000].max()) == (0, 1)

    def test_classes_are_even(self, real):
        assert np.bincount(real.y_train).tolist() == [5000] * 10
        assert np.bincount(real.y_test).tolist() == [1000] * 10

    def test_the_truck_of_the_walkthrough(self, real):
        assert real.class_names[real.y_train[1]] == "truck"

    def test_colours_are_the_known_ones(self, real):
        # Published means of the training images' red, green and blue.
        means = real.x_train[::10].mean(axis=(0, 1, 2))
        np.testing.assert_allclose(means, (0.4914, 0.4822, 0.4465), atol=0.005)

"""Data sets: what is refused, and that what is delivered is what is promised."""

import gzip
import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedpoison.data import Dataset, fashion_mnist
from fedpoison.data.digits import digits
from fedpoison.data.fashion_mnist_mini import fashion_mnist_mini
from fedpoison.data.idx import read_idx
from fedpoison.data.images import IDX_FILES, PARTS

MINI_SHA256 = {  # as scripts/build-fashion-mnist-mini prints them
    "train_images": "4db3ad17a6bb62e28664c3a04215c22596e9a9ccdc451130c41b1c1af8b93324",
    "train_labels": "1e01a24c71c35f85fefcb6cd770f6398349cced5d0eb04fb3fa805ace240e6a7",
    "test_images": "5dee5840fb4fbbe88207c1dd65f35dde9913c80f5eaff0a34742671135d57d0d",
    "test_labels": "8d552fe750389906263a639a80f62bf335532b71c8df98473a695c25b2473c24",
}


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def parts(**changed: object) -> dict[str, object]:
    images, labels = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 2, 1])
    fields = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    return {**fields, "n_classes": 3, **changed}


# The container


def test_a_dataset_of_images_or_of_rows_is_taken() -> None:
    assert Dataset(**parts()).input_shape == (1, 2, 2)
    rows = torch.rand(4, 30)
    assert Dataset(**parts(train_images=rows, test_images=rows)).input_shape == (30,)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_labels": torch.tensor([0, 1])}, "4 train images and 2 train labels"),
        ({"test_labels": torch.tensor([0, 1, 3, 1])}, "test labels go from 0 to 3, 3 classes are 0 to 2"),
        ({"train_labels": torch.tensor([0, -1, 2, 1])}, "train labels go from -1 to 2"),
        ({"test_images": torch.full((4, 1, 2, 2), torch.nan)}, "16 of 16 values of the test images"),
        ({"train_images": torch.full((4, 1, 2, 2), torch.inf)}, "16 of 16 values of the train images"),
        (
            {"train_images": torch.rand(0, 1, 2, 2), "train_labels": torch.tensor([], dtype=torch.int64)},
            r"no train samples: the images have shape \(0, 1, 2, 2\)",
        ),
        ({"test_images": torch.rand(4, 1, 3, 3)}, r"\(1, 2, 2\) each, test images \(1, 3, 3\)"),
        ({"train_images": torch.rand(4)}, r"shape \(4,\)"),
        ({"train_images": torch.ones(4, 1, 2, 2, dtype=torch.uint8)}, "torch.uint8"),
        ({"test_labels": torch.tensor([0, 1, 2, 1], dtype=torch.int32)}, "torch.int32"),
        (
            {"train_images": 255 * torch.eye(4).reshape(4, 1, 2, 2)},
            r"train images go from 0 to 255, \[0, 1\] is needed",
        ),
        ({"test_images": torch.full((4, 1, 2, 2), -0.5)}, "test images go from -0.5 to -0.5"),
        ({"test_images": torch.full((4, 1, 2, 2), 1 + 1e-6)}, "test images go from 1.00000095 to 1.00000095"),
        ({"train_images": torch.rand(4, 12, 12, 3)}, r"\(12, 12, 3\) each, which looks like \[H, W, C\]"),
        ({"train_images": torch.rand(4, 28, 20, 1)}, r"\(28, 20, 1\) each, which looks like \[H, W, C\]"),
        (
            {"train_images": torch.rand(4, 12, 12)},
            r"not \[N, C, H, W\] .*; .unsqueeze\(1\) gives pictures their channel",
        ),
        ({"train_images": torch.eye(4).to_sparse()}, "train images are sparse .*: give them as .to_dense"),
    ],
)
def test_a_dataset_says_what_is_wrong_with_it(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dataset(**parts(**changed))


@pytest.mark.parametrize("shape", [(3, 32, 32), (9, 128, 1), (512, 1, 1), (1, 2, 2), (3, 4, 3), (4, 1, 3)])
def test_pictures_of_any_shape_are_taken(shape: tuple[int, ...]) -> None:
    images = torch.linspace(0, 1, 4)[:, None, None, None].expand(4, *shape)
    assert Dataset(**parts(train_images=images, test_images=images)).input_shape == shape


def test_what_a_frozen_net_makes_of_samples_has_any_shape_and_size() -> None:
    images = 9 * torch.randn(4, 12, 12, 3, generator=torch.Generator().manual_seed(0))
    for features in (images, images[..., 0]):
        made = Dataset(**parts(train_images=features, test_images=features, seen_through=True))
        assert made.train_images is features


def as_users_make_it(**changed: object) -> Dataset:
    """A data set made where nobody holds annotations against what is given, as these tests do."""
    made = object.__new__(Dataset)
    vars(made).update(parts(**changed))
    made.__post_init__()
    return made


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"test_labels": np.array([0, 1, 2, 1])}, "test labels are a ndarray, and a tensor is needed"),
        ({"clients": [0, 1, 2, 3]}, "clients are a list, and a tensor is needed"),
        ({"n_classes": 3.0}, "n_classes is 3.0, and a whole number is needed"),
    ],
)
def test_a_dataset_says_what_is_of_the_wrong_type(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_users_make_it(**changed)


def test_a_number_of_classes_may_be_any_library_s_integer() -> None:
    assert type(as_users_make_it(n_classes=np.int64(3)).n_classes) is int


def test_tokens_have_two_dimensions() -> None:
    tokens = torch.zeros(4, 3, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"train images have shape \(4, 3, 1\) .* not \[N, length\], and \[N\]"):
        Dataset(**parts(train_images=tokens, test_images=tokens, vocabulary=2))


# The data that comes along


@pytest.fixture(scope="module")
def mini() -> Dataset:
    return fashion_mnist_mini()


def test_mini_is_balanced_and_scaled(mini: Dataset) -> None:
    assert mini.train_images.shape == (5000, 1, 28, 28)
    assert mini.test_images.shape == (1000, 1, 28, 28)
    assert mini.train_labels.bincount().tolist() == [500] * 10
    assert mini.test_labels.bincount().tolist() == [100] * 10
    assert (mini.train_images.min(), mini.train_images.max()) == (0, 1)
    assert mini.n_classes == 10


@pytest.mark.parametrize("name", MINI_SHA256)
def test_mini_has_the_bytes_the_script_chose(mini: Dataset, name: str) -> None:
    tensor = getattr(mini, name)
    numbers = (tensor * 255).round() if "images" in name else tensor
    assert hashlib.sha256(numbers.to(torch.uint8).numpy().tobytes()).hexdigest() == MINI_SHA256[name]


def test_mini_has_no_picture_twice(mini: Dataset) -> None:
    pictures = torch.cat([mini.train_images, mini.test_images]).flatten(1)
    assert len({picture.tobytes() for picture in pictures.numpy()}) == 6000


def test_digits_are_split_by_class_and_always_alike() -> None:
    data, again = digits(), digits()
    assert data.train_images.shape == (1437, 1, 8, 8)
    assert data.test_images.shape == (360, 1, 8, 8)
    assert (data.train_images.min(), data.train_images.max()) == (0, 1)
    counts = data.train_labels.bincount() + data.test_labels.bincount()
    assert ((data.test_labels.bincount() - counts / 5).abs() < 1).all()
    assert torch.equal(data.train_images, again.train_images)
    assert torch.equal(data.test_labels, again.test_labels)


# IDX files


@settings(
    derandomize=True,
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=4), zipped=st.booleans())
def test_idx_reads_what_was_written(tmp_path: Path, shape: list[int], zipped: bool) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(idx(array), mtime=0) if zipped else idx(array))
    read = read_idx(path, len(shape))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)


GOOD = idx(np.arange(6).reshape(2, 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with nothing"),
        (b"\0\0\x08", "starts with 000008"),
        (b"PNG!" + GOOD, "not an IDX file: it starts with 504e4721"),
        (b"\0\0\x0d" + GOOD[3:], "type 0x0d"),
        (idx(np.arange(6)), "has 1 dimensions, not 2"),
        (GOOD[:9], "ends after 9 bytes, within its header of 12"),
        (GOOD[:-1], r"has 5 bytes of values, not the 6 of its shape \(2, 3\)"),
        (GOOD + b"!", "has 7 bytes of values"),
        (gzip.compress(GOOD, mtime=0)[:-12], "damaged gzip"),
        (gzip.compress(GOOD, mtime=0)[:-8] + bytes(8), "damaged gzip.*CRC"),
        (gzip.compress(GOOD, mtime=0)[:10] + b"\xff" * 20, "damaged gzip"),
    ],
)
def test_idx_refuses_a_damaged_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as refusal:
        read_idx(path, 2)
    assert str(path) in str(refusal.value)


# The full Fashion-MNIST


@pytest.fixture
def look_alike(tmp_path: Path) -> dict[str, np.ndarray]:
    """Four well-formed files in tmp_path, two of them gzipped, that are not Fashion-MNIST."""
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.integers(0, 256, (20, 28, 28)) if "images" in name else np.arange(20) % 10 for name in IDX_FILES
    }
    for name, array in arrays.items():
        zipped = name.startswith("t10k")
        content = gzip.compress(idx(array), mtime=0) if zipped else idx(array)
        (tmp_path / f"{name}{'.gz' if zipped else ''}").write_bytes(content)
    return {name: array.astype(np.uint8) for name, array in arrays.items()}


def test_fashion_mnist_refuses_other_pictures(tmp_path: Path, look_alike: dict[str, np.ndarray]) -> None:
    found = hashlib.sha256(look_alike["train-images-idx3-ubyte"].tobytes()).hexdigest()
    with pytest.raises(ValueError, match=f"its train_images have sha256 {found}, not 2e487a6c"):
        fashion_mnist.fashion_mnist(folder=str(tmp_path))


def test_fashion_mnist_reads_four_files_that_pass(
    tmp_path: Path, look_alike: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = zip(PARTS, look_alike.values(), strict=True)
    digests = {part: hashlib.sha256(array.tobytes()).hexdigest() for part, array in made}
    monkeypatch.setattr(fashion_mnist, "RECIPE", replace(fashion_mnist.RECIPE, sha256=digests))
    data = fashion_mnist.fashion_mnist(folder=str(tmp_path))
    pixels = (data.train_images * 255).round().to(torch.uint8).squeeze(1)
    np.testing.assert_array_equal(pixels.numpy(), look_alike["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.test_labels.numpy(), look_alike["t10k-labels-idx1-ubyte"])
    assert data.input_shape == (1, 28, 28)


def test_fashion_mnist_says_where_to_get_a_missing_folder_or_file(
    tmp_path: Path, look_alike: dict[str, np.ndarray]
) -> None:
    with pytest.raises(ValueError, match=r"no folder .*nowhere; .*fedpoison data fetch fashion_mnist.*\[data\]"):
        fashion_mnist.fashion_mnist(folder=str(tmp_path / "nowhere"))
    (tmp_path / "train-images-idx3-ubyte").unlink()
    with pytest.raises(ValueError, match=r"no file train-images-idx3-ubyte or train-images-idx3-ubyte\.gz in"):
        fashion_mnist.fashion_mnist(folder=str(tmp_path))

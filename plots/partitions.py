"""The README's picture of the partitions: 20 clients of the embedded images under each.

python plots/partitions.py
"""

from pathlib import Path

from fedpoison.config.sweep import load
from fedpoison.preview.split import save, splits

if __name__ == "__main__":
    here = Path(__file__).parent
    print(save(splits(load(here.parent / "experiments" / "partitions.toml")), here / "gallery" / "partitions.png"))

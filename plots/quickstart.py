"""The README's figure: seven rules against a label flip and a boosted backdoor.

python plots/quickstart.py [results/quickstart] — after `bash scripts/demo`, or `fedpoison run` with more seeds.
"""

import sys
from pathlib import Path

from fedpoison.report.figures import plot
from fedpoison.runs.frame import Runs

if __name__ == "__main__":
    results = sys.argv[1] if len(sys.argv) > 1 else "results/quickstart"
    print(plot(Runs.read([results]), Path(__file__).parent / "gallery" / "quickstart.png"))

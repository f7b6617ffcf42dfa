"""How long `cap --help` and `import manifests` take, beside an interpreter that does nothing.

Each is started 15 times in turn; the figure is the median, its ratio that to `python -c pass`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "cap --help": ["-m", "pipeline", "--help"],
    "import manifests": ["-c", "import manifests"],
    "load_split imported": ["-c", "from manifests import load_split"],
}
TURNS = 15


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(TURNS):
        for name, arguments in COMMANDS.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    if "--json" in sys.argv:
        print(json.dumps(medians))
        return
    for name, median in medians.items():
        print(f"{name:22}{median:6.3f} s  {median / medians['python -c pass']:5.1f} x bare Python")


if __name__ == "__main__":
    main()

"""How fast, how lean and how polite `cap collect --source inaturalist` is, against a local server.

Rate: photos of 200 kB on average, 100 ms of latency for each, 32 connections, so that at most 320
photos come in a second. The server's log says when the first photo was asked for and when the last
was sent. In the same run img2dataset fetches the same addresses with 32 threads and stores the
original bytes; it gets an environment of its own, made once, since its requirements do not go with
ours. If it cannot be installed, 32 threads that call `requests.get` stand in, and the reason is
printed.

Memory (`--memory`): the largest resident size of the command for 1,000 and for 50,000 photos.
Politeness (`--politeness`): the most API requests in any minute, by the server's log, where it
takes more than a minute's worth of requests to list the classes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import platformdirs
import requests
from PIL import Image

from pipeline.demo.server import (
    Catalogue,
    Observation,
    Observer,
    Photo,
    RequestLog,
    ServerSettings,
    Taxon,
    server_process,
)

CONNECTIONS, LATENCY = 32, 0.1
LIMIT = CONNECTIONS / LATENCY
RATE_PHOTOS = 8000
MEMORY_PHOTOS = (1_000, 50_000)
POLITE_CLASSES = 40
AVERAGE_BYTES = 200_000
START = datetime(2024, 1, 1, tzinfo=UTC)


def jpeg(seed: int, side: int, about: int) -> bytes:
    """A JPEG of about so many bytes: structure with as much noise as it takes."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side * 3 // 4), Image.Resampling.BICUBIC), np.float32)
    noise = rng.normal(0, 12, smooth.shape)
    image = Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))
    best = b""
    for quality in range(20, 96):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        best = buffer.getvalue()
        if len(best) >= about:
            break
    return best


@dataclass(frozen=True)
class Body:
    """A photo's bytes: one of a few pictures, made distinct by what follows its end."""

    picture: bytes
    number: int

    def __call__(self) -> bytes:
        """Give the bytes."""
        return self.picture + self.number.to_bytes(8, "big")


def catalogue(count: int, pictures: list[bytes], classes: int = 1) -> Catalogue:
    """So many photos, each of an observer of its own, spread over classes."""
    taxa = tuple(Taxon(100 + n, f"Bufo bufo{n}", "species", (1, 100 + n)) for n in range(classes))
    rows = tuple(
        Observation(
            id=number,
            taxon=taxa[number % classes],
            observer=Observer(number, f"login{number}"),
            photos=(Photo(number, Body(pictures[number % len(pictures)], number)),),
            created_at=START + timedelta(minutes=number),
            observed_on=START.date(),
        )
        for number in range(1, count + 1)
    )
    return Catalogue(taxa, rows)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder on the repository's disk: to create a file below /tmp can cost a millisecond."""
    build = Path(__file__).resolve().parent.parent / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build) as name:
        yield Path(name)


def wanted(count: int) -> list[str]:
    """Options for so many photos of one class, asked for as fast as they come."""
    return ["--per-class", str(count), "--requests-per-minute", "60000"]


def collect(folder: Path, url: str, classes: int, *options: str, before: Sequence[str] = ()) -> str:
    """Run `cap collect` in a workspace of its own; gives what `before` it prints."""
    workspace = folder / "workspace"
    workspace.mkdir()
    names = [f"toad {n},Bufo bufo{n}" for n in range(classes)]
    (workspace / "space.csv").write_text("\n".join(["name,taxon", *names]) + "\n")
    (workspace / "cap.toml").write_text('label_space = "space.csv"\n')
    command = [sys.executable, "-m", "pipeline", "--quiet", "collect", "--source", "inaturalist"]
    budget = ["--gb-per-hour", "1000", "--gb-per-day", "1000"]
    done = subprocess.run(
        [*before, *command, "--api-url", f"{url}/v1", *budget, *options],
        cwd=workspace,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout


def photo_rate(log: Path) -> tuple[int, float]:
    """Photos that were sent whole, and how many in a second, by the server's log."""
    sent = [r for r in RequestLog.read(log).records if r.photo_id is not None and r.complete]
    begun = min(record.monotonic for record in sent)
    ended = max(record.monotonic for record in sent) + LATENCY
    return len(sent), len(sent) / (ended - begun)


def img2dataset() -> Path | str:
    """The interpreter of an environment with img2dataset, or why there is none."""
    folder = platformdirs.user_cache_path("cap") / "img2dataset"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "img2dataset"],
        capture_output=True,
        text=True,
        check=False,
    )
    return python if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


PEER = """
import sys
from img2dataset import download

if __name__ == "__main__":
    download(url_list=sys.argv[1], output_folder=sys.argv[2], input_format="txt",
             output_format="files", thread_count=32, processes_count=1, resize_mode="no",
             skip_reencode=True, timeout=30, number_sample_per_shard=100_000,
             disallowed_header_directives=[])
"""


def fetch_with_peer(folder: Path, urls: list[str]) -> str:
    """Fetch the addresses with img2dataset, or with a plain loop; gives the peer's name."""
    python = img2dataset()
    if isinstance(python, str):
        print(f"img2dataset cannot be installed: {python}", file=sys.stderr)
        with ThreadPoolExecutor(CONNECTIONS) as pool, requests.Session() as session:
            for number, answer in enumerate(pool.map(session.get, urls)):
                (folder / f"{number}.jpg").write_bytes(answer.content)
        return "32 threads with requests"
    (folder / "peer.py").write_text(PEER)
    (folder / "urls.txt").write_text("\n".join(urls) + "\n")
    subprocess.run(
        [python, folder / "peer.py", folder / "urls.txt", folder / "out"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return "img2dataset"


def measure_rate(turns: int) -> dict[str, float]:
    """Photos per second of both, in turns; the best of each."""
    pictures = [jpeg(n, 1024, AVERAGE_BYTES) for n in range(16)]
    average = sum(map(len, pictures)) / len(pictures)
    served = catalogue(RATE_PHOTOS, pictures)
    best: dict[str, float] = {"average_bytes": average}
    for _ in range(turns):
        for who in ("cap", "peer"):
            with scratch() as folder:
                log = folder / "log.jsonl"
                settings = ServerSettings(
                    latency=LATENCY, requests_per_minute=100_000, log_file=log
                )
                with server_process(served, settings) as url:
                    if who == "cap":
                        many = ["--connections", str(CONNECTIONS)]
                        collect(folder, url, 1, *wanted(RATE_PHOTOS), *many)
                        label = "cap"
                    else:
                        numbers = range(1, RATE_PHOTOS + 1)
                        urls = [f"{url}/photos/{number}/large.jpg" for number in numbers]
                        label = fetch_with_peer(folder, urls)
                count, rate = photo_rate(log)
            assert count == RATE_PHOTOS, f"{label} got {count} of {RATE_PHOTOS}"
            best[label] = max(best.get(label, 0.0), rate)
    return best


MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def measure_memory(count: int) -> int:
    """Largest resident size in MB of the command for so many small photos, 500 of a class."""
    pictures = [jpeg(n, 128, 3_000) for n in range(16)]
    classes = count // 500
    with scratch() as folder:
        served = catalogue(count, pictures, classes)
        with server_process(served, ServerSettings(requests_per_minute=1_000_000)) as url:
            measured = [sys.executable, "-c", MEASURED]
            size = collect(folder, url, classes, *wanted(500), before=measured)
    return int(size) // 1024


def measure_politeness() -> tuple[int, int]:
    """API requests in all, and the most in any minute, at the default rate."""
    with scratch() as folder:
        log = folder / "log.jsonl"
        served = catalogue(POLITE_CLASSES, [jpeg(0, 128, 3_000)], POLITE_CLASSES)
        with server_process(served, ServerSettings(log_file=log)) as url:
            collect(folder, url, POLITE_CLASSES)
        asked = RequestLog.read(log)
    return sum(r.path.startswith("/v1/") for r in asked.records), asked.requests_in_any(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--politeness", action="store_true")
    chosen = parser.parse_args()
    if chosen.memory:
        sizes = {count: measure_memory(count) for count in MEMORY_PHOTOS}
        for count, size in sizes.items():
            print(f"{count:6} photos: {size} MB at most")
        return
    if chosen.politeness:
        total, most = measure_politeness()
        print(f"{total} API requests, at most {most} in any minute (50 are allowed)")
        return
    best = measure_rate(chosen.turns)
    if chosen.json:
        rates = {who: rate for who, rate in best.items() if who != "average_bytes"}
        print(json.dumps({"rates": {**rates, "limit": LIMIT}}))
        return
    (name,) = set(best) - {"cap", "average_bytes"}
    print(f"photos of {best['average_bytes'] / 1000:.0f} kB, the limit is {LIMIT:.0f} a second")
    print(f"cap          {best['cap']:6.0f} photos/s  {best['cap'] / LIMIT:.2f} of the limit")
    print(f"{name:12} {best[name]:6.0f} photos/s  cap is {best['cap'] / best[name]:.2f} times that")


if __name__ == "__main__":
    main()

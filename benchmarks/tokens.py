"""Speed and memory of the token statistics: ten million tokens, K = 16384, through everything but the language models.

    python benchmarks/tokens.py [--images 39063] [--size 16384] [--law zipf|uniform] [--out FILE.npz]

Run by hand on an idle machine. Prints wall and CPU seconds per metric, their sums, and the peak resident memory of the process.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from vtbench import registry
from vtbench.suite import load_suite
from vtbench.tokens.files import measurements, open_tokens

POSITIONS = 256


def write(path: Path, images: int, size: int, law: str) -> None:
    """A file of independent tokens, Zipfian (s = 0.8, q = 3) or uniform."""
    rng = np.random.default_rng(0)
    if law == "uniform":
        ids = rng.integers(0, size, (images, POSITIONS))
    else:
        p = (np.arange(1, size + 1) + 3) ** -0.8
        ids = rng.choice(rng.permutation(size), (images, POSITIONS), p=p / p.sum())
    kind = np.uint16 if size <= 1 << 16 else np.int32
    np.savez(path, tokens=ids.astype(kind), codebook_size=size, grid=[16, 16], pixels=65536)


def main() -> None:
    """Write the file, run the suite, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=39063)
    parser.add_argument("--size", type=int, default=16384)
    parser.add_argument("--law", choices=("zipf", "uniform"), default="zipf")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = given.out or Path(folder) / "tokens.npz"
        if not path.is_file():
            write(path, given.images, given.size, given.law)
        suite = load_suite("token-statistics")
        registry.metrics()
        m = measurements(open_tokens(path))
        wall, cpu = time.perf_counter(), time.process_time()
        for entry in suite.metrics:
            fields = suite.protocols[entry.protocols[0]].fields(256)
            start, spent = time.perf_counter(), time.process_time()
            rows = len(list(registry.metric(entry.name).compute(m, fields)))
            print(
                f"{entry.name:24s} {rows:3d} rows {time.perf_counter() - start:7.2f} s wall"
                f" {time.process_time() - spent:7.2f} s CPU",
                flush=True,
            )
        print(f"{'total':24s}          {time.perf_counter() - wall:7.2f} s wall {time.process_time() - cpu:7.2f} s CPU")
        print(f"tokens {len(m.groups) * POSITIONS}, K {given.size}")
        print(f"peak resident memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()

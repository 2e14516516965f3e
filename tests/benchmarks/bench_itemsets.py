"""How fast the itemset miner is, beside pyfim (C) and mlxtend, on top-20 channels of real images.

    python tests/benchmarks/bench_itemsets.py [--pyfim PYTHON] [--without-mlxtend] [--rounds 3]

Transactions: the 20 strongest channels, each scaled by its 99.5 % quantile over a batch, at positions of the
last of three random convolutions over the package's digits (48 x 48 canvas, stride 4), drawn without order:
30,000 of 128 channels at 2.5 %, and 1,000,000 of 512 channels at 1 %; sets of at most five. The miner reads the
array; the others read what they need (lists, a table of booleans), and making that is not counted. pyfim is
GPL and no dependency: name a Python that has it and numpy. Rounds are interleaved, medians are told, one
thread each, processor time; every answer is compared with the miner's. Memory is the whole process's peak
(Linux).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

CASES = {"30k x top-20 of 128": (30_000, 128, 750), "1M x top-20 of 512": (1_000_000, 512, 10_000)}
LONGEST = 5

OURS = """
import json, sys, time
import numpy as np
from interp_cnn.explanation.concepts.itemsets import frequent_itemsets
transactions = np.load(sys.argv[1])
start = time.process_time()
found = frequent_itemsets(transactions, min_support=int(sys.argv[2]), max_length=int(sys.argv[3]))
seconds = time.process_time() - start
memory = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1000
digest = sum(hash(pair) for pair in found) % (1 << 61)
print(json.dumps([seconds, memory, len(found), digest]))
"""
PYFIM = """
import json, sys, time
import fim, numpy as np
transactions = np.load(sys.argv[1]).tolist()
start = time.process_time()
found = getattr(fim, sys.argv[4])(transactions, supp=-int(sys.argv[2]), zmin=1, zmax=int(sys.argv[3]), report="a")
seconds = time.process_time() - start
memory = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1000
digest = sum(hash((tuple(sorted(items)), count)) for items, count in found) % (1 << 61)
print(json.dumps([seconds, memory, len(found), digest]))
"""
MLXTEND = """
import json, sys, time, warnings
import numpy as np, pandas as pd
warnings.simplefilter("ignore")
from mlxtend.frequent_patterns import fpgrowth
transactions = np.load(sys.argv[1])
table = np.zeros((len(transactions), transactions.max() + 1), dtype=bool)
table[np.arange(len(table))[:, None], transactions] = True
table = pd.DataFrame(table)
start = time.process_time()
found = fpgrowth(table, min_support=int(sys.argv[2]) / len(table), max_len=int(sys.argv[3]))
seconds = time.process_time() - start
memory = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1000
pairs = zip(found["itemsets"], (found["support"] * len(table)).round().astype(int).tolist())
digest = sum(hash((tuple(sorted(int(i) for i in items)), count)) for items, count in pairs) % (1 << 61)
print(json.dumps([seconds, memory, len(found), digest]))
"""


@torch.no_grad()
def transactions(count: int, channels: int, *, top: int = 20) -> np.ndarray:
    """(count, top) int16: strongest channels at positions of a random layer over the digits."""
    from interp_cnn.data.digits import DigitsParts

    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = DigitsParts("train")
    network = nn.Sequential(
        nn.Conv2d(1, 32, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, channels, 3, padding=1),
    )
    chosen, mean, scale, first = [], None, None, 0
    while sum(map(len, chosen)) < count:
        images = torch.stack([data[(first + number) % len(data)].image for number in range(256)])
        first += len(images)
        maps = network(images).movedim(1, -1).flatten(0, 2)  # (positions, D)
        mean = maps.mean(dim=0) if mean is None else mean
        maps = (maps - mean).relu()
        scale = maps[::7].quantile(0.995, dim=0) if scale is None else scale
        chosen.append((maps / scale).topk(top, dim=1).indices.to(torch.int16))
    positions = torch.cat(chosen)
    order = torch.randperm(len(positions), generator=torch.Generator().manual_seed(0))
    return positions[order[:count]].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pyfim", help="a Python interpreter that has pyfim and numpy")
    parser.add_argument("--without-mlxtend", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, (count, channels, support) in CASES.items():
            file = Path(folder) / f"{channels}.npy"
            np.save(file, transactions(count, channels))
            contenders = {"ours": [sys.executable, OURS, []]}
            if arguments.pyfim:
                for algorithm in ("eclat", "fpgrowth"):
                    contenders[f"pyfim {algorithm}"] = [arguments.pyfim, PYFIM, [algorithm]]
            if not arguments.without_mlxtend and count < 100_000:
                contenders["mlxtend fpgrowth"] = [sys.executable, MLXTEND, []]
            measured: dict[str, list] = {contender: [] for contender in contenders}
            for round_number in range(arguments.rounds):
                for contender, (python, script, more) in contenders.items():
                    if contender.startswith("mlxtend") and round_number:
                        continue  # once is enough for the slowest by far
                    command = [python, "-c", script, file, str(support), str(LONGEST), *more]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)
                    measured[contender].append(json.loads(done.stdout))
            report(name, support, measured)


def report(name: str, support: int, measured: dict[str, list]) -> None:
    ours = median(row[0] for row in measured["ours"])
    sets = {row[2] for rows in measured.values() for row in rows}
    same = len({row[3] for rows in measured.values() for row in rows}) == 1
    print(f"{name}, support {support}: {sorted(sets)} sets, all answers {'equal' if same else 'DIFFERENT'}")
    for contender, rows in measured.items():
        seconds, memory = median(row[0] for row in rows), max(row[1] for row in rows)
        print(
            f"  {contender:18} {seconds:8.2f} s  {seconds / ours:6.2f} x ours  {memory:6.0f} MB", flush=True
        )


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"{time.perf_counter() - started:.0f} s in all")

"""Breaks what a run stands on, many times, and looks whether it says so in a sentence and goes on to the same bits.

    python tests/benchmarks/faults.py FOLDER [--tries 20] [--faults disk read-only worker checkpoint twice]

disk         a file system (tmpfs, needs root) that fills up at a random moment, then gets room
read-only    a run folder that cannot be written to: mounted so, or made immutable (chattr +i, needs root)
worker       the process that prepares images is killed at a random moment
checkpoint   last.ckpt of an interrupted training is cut, or a byte in it changed
twice        a second command in the folder of a running one
"""

import argparse
import os
import random
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from kills import EXPLAIN, TRAIN, ended, finished, maps, started, weights

ROOM = 64 << 20


@contextmanager
def small_disk(place: Path, size: int, *, more: str = ""):
    """A file system of so many bytes at a folder."""
    place.mkdir(parents=True, exist_ok=True)
    options = f"size={size}{more}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def said(place: Path) -> str:
    """What a command in that folder has written to the terminal; a progress bar's last state only."""
    text = (place.parent / f"{place.name}.txt").read_text(errors="replace")
    return text.replace("\r", "\n")


def in_a_sentence(place: Path, code: int) -> bool:
    """Exit code 2, one line of ours, no traceback."""
    text = said(place)
    return code == 2 and "Traceback" not in text and text.count("interp-cnn: ") == 1


def full_disk(words, read, folder: Path, number: int, draw: random.Random, expected) -> bool:
    """Fills at a random size; with room again the same command ends with the same bits."""
    place = folder / str(number)
    whole = sum(path.stat().st_size for path in (folder / "whole").rglob("*") if path.is_file())
    with small_disk(place, draw.randrange(20_000, max(30_000, int(0.9 * whole)))):
        code = ended(started(words, place))
        sentence = code == 0 or (in_a_sentence(place, code) and "No space left" in said(place))
        left = list(place.rglob("*.draft"))
        subprocess.run(["mount", "-o", f"remount,size={ROOM}", str(place)], check=True)
        finished(words, place)
        equal = read(place) == expected
    return report("full disk", words, code, sentence and not left and equal, said(place))


def read_only(words, read, folder: Path, number: int, draw: random.Random, expected) -> bool:
    """Mounted for reading, or a folder in which nothing may be made."""
    place = folder / str(number)
    if number % 2:
        with small_disk(place, ROOM, more=",ro"):
            code = ended(started(words, place))
    else:
        place.mkdir(parents=True)
        subprocess.run(["chattr", "+i", str(place)], check=True)
        code = ended(started(words, place))
        subprocess.run(["chattr", "-i", str(place)], check=True)
    return report("read-only", words, code, in_a_sentence(place, code), said(place))


def lost_worker(words, read, folder: Path, number: int, draw: random.Random, expected) -> bool:
    """A worker of the loader is killed; the same command goes on to the same bits."""
    place = folder / str(number)
    child = started([*words, "data.workers=1"], place)
    time.sleep(draw.uniform(0, 2))
    killed, code = False, None
    while code is None:
        for worker in children(child):
            try:
                os.kill(worker, signal.SIGKILL)
                killed = True
            except ProcessLookupError:
                pass
        if killed or os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            code = ended(child)
        time.sleep(0.01)
    sentence = (in_a_sentence(place, code) and "was lost" in said(place)) if killed and code else code == 0
    finished([*words, "data.workers=0"], place)
    return report("lost worker", words, code, sentence and read(place) == expected, said(place))


def children(process: int) -> list[int]:
    """Workers of a process: its children that run the same program."""
    try:
        return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def damaged_checkpoint(words, read, folder: Path, number: int, draw: random.Random, expected) -> bool:
    """last.ckpt of a killed training is cut, or a byte changed; it goes on from the one before."""
    place = folder / str(number)
    child, last = started(words, place), place / "out" / "checkpoints" / "last.ckpt"
    while not last.with_name("previous.ckpt").is_file():
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    ended(child)
    content = bytearray(last.read_bytes() if last.is_file() else last.with_name("previous.ckpt").read_bytes())
    if number % 2:
        content = content[: draw.randrange(len(content))]
    else:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    last.write_bytes(content)
    code = ended(started(words, place))
    fell_back = "going on from the one before" in said(place)
    print(f"  fell back: {fell_back}")  # a changed byte may lie where nothing is stored
    return report("damaged checkpoint", words, code, code == 0 and read(place) == expected, said(place))


def two_at_once(words, read, folder: Path, number: int, draw: random.Random, expected) -> bool:
    """A second command in the same folder is refused, and the first one does not notice."""
    place = folder / str(number)
    first = started(words, place)
    while not (place / "out" / ".lock").is_file():
        time.sleep(0.002)
    time.sleep(draw.uniform(0.05, 0.5))
    before = said(place).count("interp-cnn: ")
    code = ended(started(words, place))
    refused = code == 2 and "another interp-cnn is at work" in said(place) and before == 0
    calm = ended(first) == 0
    return report("two at once", words, code, refused and calm and read(place) == expected, said(place))


def report(fault: str, words, code: int, well: bool, text: str) -> bool:
    """A row per try, with the sentence that the user sees."""
    lines = [line for line in text.splitlines() if "interp-cnn: " in line or line.startswith("WARNING")]
    print(
        f"{fault}, {words[0]}: exit {code}, as it should {well}: {lines[-1][:160] if lines else ''}",
        flush=True,
    )
    return well


FAULTS = {
    "disk": (full_disk, ("train", "explain")),
    "read-only": (read_only, ("train", "explain")),
    "worker": (lost_worker, ("train",)),
    "checkpoint": (damaged_checkpoint, ("train",)),
    "twice": (two_at_once, ("train", "explain")),
}


def main() -> None:
    """The faults one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--faults", nargs="+", default=list(FAULTS))
    options = parser.parse_args()
    top = options.folder.absolute()
    top.mkdir(parents=True, exist_ok=True)
    run = top / "network"
    if not (run / "out" / "run.json").is_file():
        finished(TRAIN, run)
    commands = {"train": (TRAIN, weights), "explain": ([*EXPLAIN, f"run={run / 'out'}"], maps)}
    for fault in options.faults:
        broken, names = FAULTS[fault]
        for name in names:
            words, read = commands[name]
            folder = top / f"{fault}-{name}"
            finished(words, folder / "whole")
            expected, draw = read(folder / "whole"), random.Random(0)
            good = sum(broken(words, read, folder, number, draw, expected) for number in range(options.tries))
            print(f"{fault}, {name}: {good} of {options.tries} as it should", flush=True)


if __name__ == "__main__":
    main()

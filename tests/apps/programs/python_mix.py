"""json, subprocess, threading and a mapped file in one interpreter."""

import json
import mmap
import subprocess
import sys
import threading
import zlib
from pathlib import Path


def documents() -> int:
    """Round-trip a growing document through json and return a checksum of its text."""
    rows = [{"id": n, "name": f"row {n}", "values": list(range(n % 40))} for n in range(3000)]
    text = json.dumps(rows, sort_keys=True)
    assert json.loads(text) == rows
    return zlib.crc32(text.encode())


def threads() -> int:
    """Let eight threads allocate and free large and small objects and sum what they computed."""
    totals: list[int] = []
    lock = threading.Lock()

    def work(seed: int) -> None:
        total = 0
        for step in range(60):
            block = bytearray(300_000 + 4096 * ((seed + step) % 7))
            block[::4096] = bytes([seed]) * len(block[::4096])
            total += sum(block[::4096])
        with lock:
            totals.append(total)

    running = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 9)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(totals)


def mapped_file(path: Path) -> tuple[int, int]:
    """Write through a shared mapping, grow it, and read the result by a private mapping and by
    read()."""
    path.write_bytes(bytes(65536))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        for page in range(16):
            shared[page * 4096 : page * 4096 + 4] = page.to_bytes(4, "little")
        shared.flush()
        shared.resize(131072)
        shared[-4:] = b"tail"
    with (
        path.open("rb") as source,
        mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_COPY) as private,
    ):
        private[0:4] = b"mine"
        seen = zlib.crc32(private)
    return seen, zlib.crc32(path.read_bytes())


def resized() -> int:
    """Grow shared anonymous memory to the size of a huge page: the host chooses the new place."""
    with mmap.mmap(-1, 1 << 20) as memory:
        memory[:4] = b"head"
        memory.resize(1 << 21)
        return zlib.crc32(memory[: 1 << 20])  # the file behind it has not grown


def children() -> list[str]:
    """Run three child interpreters and a failing one."""
    code = "import sys; print(sum(len(bytearray(n)) for n in range(0, 400000, 4000)) + int(sys.argv[1]))"
    answers = [
        subprocess.run(
            [sys.executable, "-c", code, str(n)], capture_output=True, text=True, check=True
        ).stdout.strip()
        for n in range(3)
    ]
    failing = subprocess.run([sys.executable, "-c", "raise SystemExit(7)"], check=False)
    return [*answers, str(failing.returncode)]


print("json", documents())
print("threads", threads())
print("mapped", *mapped_file(Path("mapped.bin")))
print("resized", resized())
print("children", *children())
sys.exit(3)

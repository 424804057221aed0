"""The table of real programs whose behaviour under Laconic must equal their native behaviour.

A workload runs in a directory of its own that holds a copy of `programs/` and whatever `prepare`
built there. One command is the whole of it: a server, its clients and their end are descendants of
one `laconic run`.
"""

import glob
import importlib.util
import os
import pwd
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass

SEARCH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
"""Where programs are looked for: servers are not on everybody's path."""

STATIC_CHURN = ("gcc", "-std=gnu11", "-O2", "-static", "-pthread", "-o", "churn", "churn.c")
CHURN = ("gcc", "-std=gnu11", "-O2", "-pthread", "-o", "churn", "churn.c")


def unchanged(output: str) -> str:
    """Return the output as it is: most programs print the same every time."""
    return output


def without_stress_notes(output: str) -> str:
    """Drop stress-ng's notes of progress, which carry process ids and times; failures and warnings
    stay."""
    return re.sub(r"(?m)^stress-ng: info: .*\n", "", output)


@dataclass(frozen=True)
class Workload:
    """One program (or one script that drives several) and what it needs."""

    name: str
    command: tuple[str, ...]
    """The command; `{port}` stands for a free port of the loopback interface."""
    needs: tuple[str, ...]
    """Executables, and patterns of files, without which there is nothing to run."""
    prepare: tuple[tuple[str, ...], ...] = ()
    """Commands that run natively beforehand, such as a compiler."""
    user: str = ""
    """The user to become when started by root: for programs that refuse root, or could do harm."""
    slow: bool = False
    """Whether continuous integration leaves it out, for the time it takes to install or to run."""
    elides: bool = False
    """Whether a redundant mmap, and 7 % of all calls, must have been kept from the host."""
    limit: float = 180.0
    """Seconds after which a run under Laconic counts as hung."""
    normalise: Callable[[str], str] = unchanged
    """What takes out of the output and the error output what varies from run to run."""

    def missing(self) -> str:
        """Return what keeps the workload from running here, or nothing."""
        absent = [need for need in self.needs if not present(need)]
        if self.user and os.geteuid() == 0:
            if not present("setpriv"):
                absent.append("setpriv")
            if self.user not in {entry.pw_name for entry in pwd.getpwall()}:
                absent.append(f"user {self.user}")
        return f"not installed: {', '.join(absent)}" if absent else ""

    def prefix(self) -> tuple[str, ...]:
        """Return the words that start the command as the user it asks for."""
        if not self.user or os.geteuid() != 0:
            return ()
        entry = pwd.getpwnam(self.user)
        return ("setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups")


def present(need: str) -> bool:
    """Return whether an executable, or a file that matches a pattern, is there."""
    return bool(glob.glob(need) if "/" in need else shutil.which(need, path=SEARCH))


def preloaded(name: str, library: str) -> Workload:
    """Return the workload that churns through memory with another allocator in front of the C
    library's."""
    pattern = f"/usr/lib/*/{library}"
    path = next(iter(glob.glob(pattern)), pattern)
    return Workload(
        f"preload-{name}", ("env", f"LD_PRELOAD={path}", "./churn"), ("gcc", pattern), (CHURN,)
    )


def stress(name: str, operations: int, *options: str, slow: bool = False) -> Workload:
    """Return the workload of one stress-ng stressor, bounded by operations and by a few seconds."""
    bounds = ("--timeout", "3s", f"--{name}", "1", f"--{name}-ops", str(operations))
    command = ("stress-ng", "--no-rand-seed", "--verify", "--temp-path", ".", *bounds, *options)
    needs = ("stress-ng",)
    return Workload(
        f"stress-{name}",
        command,
        needs,
        (),
        "nobody",
        slow,
        limit=600.0,
        normalise=without_stress_notes,
    )


def collector(name: str) -> Workload:
    """Return the workload of one of Java's garbage collectors."""
    heap = (
        f"-XX:+Use{name}GC",
        "-Xms16m",
        "-Xmx192m",
        "-XX:MinHeapFreeRatio=5",
        "-XX:MaxHeapFreeRatio=10",
    )
    command = ("java", *heap, "-cp", ".", "Collect")
    prepare = (("javac", "Collect.java"),)
    return Workload(
        f"java-{name.lower()}", command, ("java", "javac"), prepare, slow=True, limit=600.0
    )


def python_with_numpy() -> tuple[str, str]:
    """Return an interpreter that has numpy, and a file that exists if it does."""
    own = importlib.util.find_spec("numpy")
    if own is not None and own.origin:
        return sys.executable, own.origin
    return "/usr/bin/python3", "/usr/lib/python3/dist-packages/numpy/__init__.py"


NUMPY_PYTHON, NUMPY = python_with_numpy()
GO_BUILD = (
    "GO111MODULE=off GOTOOLCHAIN=local CGO_ENABLED=0 GOCACHE=$PWD/cache go build -o "
    "collect collect.go"
)

WORKLOADS: tuple[Workload, ...] = (
    Workload("python3", (sys.executable, "python_mix.py"), (), elides=True),
    Workload("python3-processes", (sys.executable, "python_processes.py"), ()),
    Workload("python3-numpy", (NUMPY_PYTHON, "python_numpy.py"), (NUMPY_PYTHON, NUMPY)),
    Workload("ipc-namespace", ("unshare", "--ipc", sys.executable, "segments.py"), ("unshare",)),
    Workload("gcc", ("bash", "gcc.sh"), ("bash", "gcc"), elides=True),
    Workload("make", ("bash", "build.sh"), ("bash", "gcc", "make")),
    Workload("git", ("bash", "git.sh"), ("bash", "git")),
    Workload(
        "bash", ("bash", "pipeline.sh"), ("bash", "awk", "gzip", "xargs", "sha256sum", "diff")
    ),
    Workload("sqlite3", ("sqlite3", "-bail", "items.db", ".read sqlite.sql"), ("sqlite3",)),
    Workload("perl", ("perl", "mix.pl"), ("perl",)),
    Workload(
        "redis",
        ("bash", "redis.sh", "{port}"),
        ("bash", "redis-server", "redis-benchmark"),
        elides=True,
    ),
    Workload("nginx", ("bash", "nginx.sh", "{port}"), ("bash", "nginx", "ab"), elides=True),
    Workload(
        "postgresql",
        ("bash", "postgres.sh"),
        ("bash", "/usr/lib/postgresql/*/bin/pgbench"),
        user="postgres",
        limit=600.0,
    ),
    Workload("node", ("node", "mix.js"), ("node",), limit=600.0),
    collector("Serial"),
    collector("Parallel"),
    collector("G1"),
    collector("Z"),
    Workload(
        "go",
        ("./collect",),
        ("bash", "go"),
        (("bash", "-c", f"{GO_BUILD} && rm -rf cache"),),
        slow=True,
    ),
    Workload(
        "rust",
        ("./grow",),
        ("rustc", "gcc"),
        (("rustc", "-O", "-o", "grow", "grow.rs"),),
        slow=True,
    ),
    Workload("churn", ("./churn",), ("gcc",), (CHURN,)),
    Workload(
        "per-page",
        ("./per_page",),
        ("gcc",),
        (("gcc", "-O2", "-o", "per_page", "per_page.c"),),
        elides=True,
    ),
    preloaded("jemalloc", "libjemalloc.so.2"),
    preloaded("mimalloc", "libmimalloc.so.2*"),
    preloaded("tcmalloc", "libtcmalloc_minimal.so.4"),
    Workload("static", ("./churn",), ("gcc", "/usr/lib/*/libc.a"), (STATIC_CHURN,)),
    Workload("busybox", ("busybox", "sh", "busybox.sh"), ("busybox",)),
    stress("mmap", 40, "--mmap-bytes", "1m"),
    stress("mremap", 100, "--mremap-bytes", "4m"),
    stress("mprotect", 20000, slow=True),
    stress("brk", 20000),
    stress("madvise", 1, slow=True),
    stress("fork", 300),
    stress("clone", 100),
    stress("vm-splice", 20000),
)

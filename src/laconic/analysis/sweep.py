"""Many traces under many strategies: one row for each pair, from local processes or remote workers,
in one Parquet file.

Finished work is never repeated. Each row is appended to a journal beside the result as soon as it
arrives; at the end the result is written from the journal under a temporary name, and replaces it.
So a sweep resumes if it was interrupted, or if its machine died. A trace that cannot be read, or
that kills its workers, yields a row with the error.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import shlex
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from laconic import __version__
from laconic.analysis.workers import Killed, TaskKey, on_cluster, on_processes
from laconic.errors import LaconicError
from laconic.memory.change import ChangeKind
from laconic.sgx.meter import THINGS, Counts

if TYPE_CHECKING:
    import pyarrow as pa

    from laconic.sgx.costs import CostProfile

SweepRow = dict[str, Any]
HOSTS: Final = ("linux", "sgx2")
#: The counters of enclaves.
PAGES_AND_TIMES: Final = (*THINGS, "peak_epc_pages")
#: The result's columns and their Arrow types. `size` is in bytes, `modified` in nanoseconds since
#: 1970. `host_calls` are system calls if the host is linux, OCALLs if it is sgx2; `uncertain` of
#: them would be elided if all state that the trace does not record were already as requested. The
#: other counters of enclaves are null for the host linux, those of linux for sgx2. `counts_low` has
#: the lower ends if the counts are ranges.
COLUMNS: Final = {
    "trace": "string",
    "strategy": "string",
    "host": "string",
    "size": "int64",
    "modified": "int64",
    "source": "string",
    "laconic": "string",
    "events": "int64",
    "processes": "int64",
    "calls": "int64",
    "host_calls": "int64",
    "elided": "int64",
    "narrowed": "int64",
    "failed": "int64",
    **{f"changed_{str(kind.name).lower()}": "int64" for kind in ChangeKind if kind},
    "resynced": "int64",
    "uncertain": "int64",
    "by_call": "list",
    **dict.fromkeys(PAGES_AND_TIMES, "int64"),
    "counts_low": "struct",
    "costs": "string",
    "cycles_low": "double",
    "cycles_high": "double",
    "complete": "bool",
    "loss": "string",
    "error": "string",
    "seconds": "double",
}
_COUNTS: Final = ("calls", "host_calls", "elided", "narrowed", "failed")


@dataclass(frozen=True)
class Swept:
    """The rows of a result, by trace and strategy; `kept` of them were in the journal of an earlier
    run."""

    rows: list[SweepRow]
    kept: int
    seconds: float


def find(patterns: Iterable[str]) -> list[str]:
    """Return the traces that `patterns` name, as absolute paths, each once and in order.

    A directory is searched recursively for `*.trace`; a file is itself; any other pattern is a
    glob, `**` included. Raises LaconicError if one of them matches nothing, or a directory cannot
    be read.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        hits = [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True)
        paths = [path for hit in hits for path in (_below(hit) if os.path.isdir(hit) else [hit])]
        if not paths:
            kind = "holds no *.trace file" if hits else "matches no file"
            raise LaconicError(
                f"{pattern!r} {kind}: name a directory of traces, or a glob such as 'logs/*.trace'"
            )
        for path in paths:
            found.setdefault(os.path.realpath(path), os.path.abspath(path))
    return sorted(found.values())


def choose(names: str, host: str = "linux", also: tuple[str, ...] = ()) -> list[str]:
    """Return the strategies on `host` that `names` (`all`, or a comma-separated list) represents.

    A grid of options represents each of its settings (`laconic.strategies.options`). `also` are
    accepted in addition. Raises LaconicError for others.
    """
    from laconic.strategies import check_name, full_name, names_on
    from laconic.strategies.options import expand, split_names

    if names == "all":
        return [*names_on(host), *also]
    chosen = [name for words in split_names(names) for name in expand(words)]
    if "all" in chosen:
        raise LaconicError(f"{names!r}: all stands alone")
    for name in chosen:
        if name not in also:
            check_name(name, host, ("all",))
    return list(dict.fromkeys(name if name in also else full_name(name) for name in chosen))


def sweep(
    traces: Sequence[str],
    strategies: Sequence[str],
    output: str,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    force: bool = False,
    profile: CostProfile | None = None,
    progress: Callable[[int], None] = lambda done: None,
    work: Callable[[str, str], SweepRow] | None = None,
) -> Swept:
    """Replay each of `traces` under each of `strategies` into the Parquet file `output`.

    The work is done by `jobs` processes (default: one per CPU), or by the workers of the Dask
    `scheduler`; the rows are the same, except for their `seconds`. Rows that the journal of an
    interrupted sweep contains are kept, except those with an error. With a cost `profile` the host
    is sgx2: enclaves are counted instead of Linux's host calls. `progress` receives the number of
    finished rows. `work` makes a row instead of `sweep_one` or `sweep_enclave`. Raises LaconicError
    if the output cannot be written (or exists, without `force`), or no worker is available.
    """
    began = time.monotonic()
    host = HOSTS[profile is not None]
    work = work or (sweep_one if profile is None else sweep_enclave)
    tasks = sorted({(path, strategy) for path in traces for strategy in strategies})
    with closing(_Journal(output + ".partial")) as journal:
        _check_output(output, force)
        rows = _kept(journal.rows, tasks, host)
        kept = len(rows)
        progress(kept)
        # Longest first, so that no long trace remains at the end, when the other workers are idle.
        left = sorted(
            (task for task in tasks if task not in rows),
            key=lambda task: -(_identity(task[0])[0] or 0),
        )
        done = (
            on_processes(left, work, jobs or _cpus())
            if scheduler is None
            else on_cluster(left, work, scheduler)
        )
        with closing(done):
            for task, result in done:
                if isinstance(result, Killed):
                    rows[task] = _killed(task, result.workers, host)
                else:
                    rows[task] = _checked(result)
                journal.append(rows[task])
                progress(len(rows))
        ordered = [
            rows[task] if profile is None else _estimated(rows[task], profile) for task in tasks
        ]
        _write(ordered, output)
        journal.remove()
    return Swept(ordered, kept, time.monotonic() - began)


def _checked(row: SweepRow) -> SweepRow:
    if row["laconic"] != __version__:
        raise LaconicError(
            f"a worker has Laconic {row['laconic']}, this is {__version__}: install the same "
            "everywhere"
        )
    return row


def _estimated(row: SweepRow, profile: CostProfile) -> SweepRow:
    # Workers do not compute cycles, because a kept row may come from a sweep with other costs.
    if row["error"] is not None:
        return row
    high = Counts(**{name: row[name] for name in THINGS})
    low = (
        high
        if row["counts_low"] is None
        else Counts(**{name: row["counts_low"][name] for name in THINGS})
    )
    return {
        **row,
        "costs": profile.name,
        "cycles_low": profile.cycles(low)[0],
        "cycles_high": profile.cycles(high)[1],
    }


def _kept(rows: Iterable[SweepRow], tasks: Iterable[TaskKey], host: str) -> dict[TaskKey, SweepRow]:
    # Return the rows of an earlier run that are still valid: same trace, same Laconic. Failed rows
    # are tried again.
    wanted = set(tasks)
    found = {(row["trace"], row["strategy"]): row for row in rows}
    return {
        task: row
        for task, row in found.items()
        if task in wanted
        and row["host"] == host
        and row["error"] is None
        and row["laconic"] == __version__
        and (row["size"], row["modified"]) == _identity(task[0])
    }


def _cpus() -> int:
    return len(os.sched_getaffinity(0))


# One row


@contextmanager
def _noting(row: SweepRow) -> Iterator[None]:
    # Record in the row how long the block took, and its error, if any.
    began = time.monotonic()
    try:
        yield
    except LaconicError as error:
        row["error"] = str(error)
    except Exception as error:  # a bug must not affect the other traces
        row["error"] = f"a defect of Laconic, please report it: {type(error).__name__}: {error}"
    row["seconds"] = time.monotonic() - began


def sweep_one(path: str, strategy: str) -> SweepRow:
    """Return the row of `COLUMNS` for one trace under one strategy. A failure is in its `error`:
    nothing is raised."""
    row = _blank(path, strategy, "linux")
    with _noting(row):
        import laconic.trace
        from laconic.replay import replay_trace

        with laconic.trace.open(path) as trace:
            row["source"] = trace.source
            replayed = replay_trace(trace, strategy)
        ledger = replayed.ledger
        lines = sorted(ledger.by_call.items())
        row |= {
            "events": replayed.events,
            "processes": ledger.processes,
            **{name: sum(getattr(line, name) for _, line in lines) for name in _COUNTS},
            **{f"changed_{kind}": count for kind, count in ledger.changes().items()},
            "resynced": ledger.resynced,
            "uncertain": sum(replayed.uncertain.values()),
            "by_call": [
                {"name": name, **{count: getattr(line, count) for count in _COUNTS}}
                for name, line in lines
            ],
            "complete": not replayed.loss,
            "loss": "; ".join(replayed.loss),
        }
    return row


def sweep_enclave(path: str, strategy: str) -> SweepRow:
    """As `sweep_one`, for the trace's enclaves; without cycles, because these depend on the
    profile, not the trace."""
    row = _blank(path, strategy, "sgx2")
    with _noting(row):
        import laconic.trace
        from laconic.analysis.compare import compare
        from laconic.sgx.costs import load

        trace = laconic.trace.open(path)
        row["source"] = trace.source
        compared = compare(trace, [strategy], load(), jobs=1)
        figures = compared.strategies[strategy]
        loss = [*compared.lost, *([trace.loss] if trace.loss else [])]
        low = {**figures.total.low.as_dict(), "peak_epc_pages": figures.peak[0]}
        row |= {**figures.total.high.as_dict(), "peak_epc_pages": figures.peak[1]}
        row |= {
            "events": compared.events,
            "processes": compared.processes,
            "calls": compared.calls,
            "counts_low": low if compared.ranged else None,
            "complete": not loss,
            "loss": "; ".join(loss),
        }
    return row


def _blank(path: str, strategy: str, host: str, error: str | None = None) -> SweepRow:
    size, modified = _identity(path)
    known = {"trace": path, "strategy": strategy, "host": host, "size": size, "modified": modified}
    return {
        **dict.fromkeys(COLUMNS),
        **known,
        "laconic": __version__,
        "complete": False,
        "error": error,
    }


def _killed(task: TaskKey, workers: int, host: str) -> SweepRow:
    path, strategy = task
    again = shlex.join(["laconic", "replay", path, "--strategy", strategy, "--host", host])
    return _blank(
        path, strategy, host, f"{workers} workers were killed at it (out of memory?): see  {again}"
    )


def _identity(path: str) -> tuple[int | None, int | None]:
    # Return what identifies a trace. An unreadable trace has no identity, and its row will say why.
    try:
        about = os.stat(path)
    except OSError:
        return None, None
    return about.st_size, about.st_mtime_ns


# The files


class _Journal:
    # Rows as JSON lines, in the order in which they arrived. Locked by one sweep at a time.

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise LaconicError(
                f"-o: {path!r} cannot be written, {error.strerror}: name another file"
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise LaconicError(
                f"another sweep is writing {path!r}: wait for it, or name another -o"
            ) from None
        self.rows = self._read()

    def _read(self) -> list[SweepRow]:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        self._file.truncate(whole)  # an incomplete line left by a kill would corrupt the next one
        rows = []
        for line in content[:whole].splitlines():
            with suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and row.keys() == COLUMNS.keys():
                    rows.append(row)
        return rows

    def append(self, row: SweepRow) -> None:
        try:
            line = json.dumps(row).encode() + b"\n"
            while line:
                line = line[self._file.write(line) or 0 :]
        except OSError as error:
            raise LaconicError(
                f"{self._path!r} cannot be written, {error.strerror}: make room and start again, "
                "what is done is kept"
            ) from None

    def remove(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def close(self) -> None:
        if not os.fstat(self._file.fileno()).st_size:
            self.remove()
        self._file.close()


def _check_output(path: str, force: bool) -> None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise LaconicError(
            f"-o {path!r} cannot be written, {error.strerror}: name another file"
        ) from None
    if not stat.S_ISREG(mode):
        raise LaconicError(f"-o {path!r} is not a regular file: name another")
    if not force:
        raise LaconicError(f"-o {path!r} exists already: name another file, or give --force")


def _schema() -> pa.Schema:
    import pyarrow as pa

    line = pa.struct([("name", pa.string()), *((name, pa.int64()) for name in _COUNTS)])
    kinds = {
        "string": pa.string(),
        "int64": pa.int64(),
        "bool": pa.bool_(),
        "double": pa.float64(),
        "list": pa.list_(line),
        "struct": pa.struct([(name, pa.int64()) for name in PAGES_AND_TIMES]),
    }
    return pa.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])


def _write(rows: Sequence[SweepRow], path: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # A path that is not text is shown as Python shows it.
    shown = [
        {**row, "trace": os.fsencode(row["trace"]).decode(errors="backslashreplace")}
        for row in rows
    ]
    new = path + ".new"
    try:
        with open(new, "wb") as file:
            pq.write_table(pa.Table.from_pylist(shown, _schema()), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError as error:
        raise LaconicError(
            f"-o {path!r} cannot be written, {error.strerror or error}: make room and start again, "
            "what is done is kept"
        ) from None
    finally:
        with suppress(OSError):
            os.unlink(new)


def _below(directory: str) -> list[str]:
    def refuse(error: OSError) -> None:
        raise LaconicError(
            f"{error.filename!r} cannot be read, {error.strerror}: name what can be read"
        ) from None

    walk = os.walk(directory, onerror=refuse)
    return [
        os.path.join(top, name)
        for top, _, names in walk
        for name in names
        if name.endswith(".trace")
    ]

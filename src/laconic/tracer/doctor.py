"""What the machine permits a tracer to do, found by trying it."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from laconic.errors import LaconicError
from laconic.linux import pagemap, proc
from laconic.linux.pal import only_changes
from laconic.memory.ledger import Ledger
from laconic.tracer import ptrace
from laconic.tracer.attach import capable, yama_scope
from laconic.tracer.launch import install_filter
from laconic.tracer.loop import Tracer
from laconic.tracer.mediate import Mediator
from laconic.tracer.seccomp import build_filter, pack_filter
from laconic.tracer.verify import Checker


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried: `ok`, `limited` (works, with a restriction), or `missing` (Laconic
    cannot run)."""

    what: str
    level: Literal["ok", "limited", "missing"]
    text: str
    cure: str = ""


_CAP_SYS_ADMIN, _CAP_SYS_PTRACE = 21, 19


def examine() -> list[Finding]:
    """Return every finding, in the order in which a run would meet them; the last is a run of a
    real program."""
    findings = [_machine()]
    if findings[0].level == "missing":
        return findings
    findings += [_ptrace(), _attach(), _seccomp(), _setuid(), _proc(), _limits(), _programs()]
    if not any(finding.level == "missing" for finding in findings):
        findings.append(_trial())
    return findings


def _machine() -> Finding:
    machine, release = platform.machine(), platform.release()
    text = f"{platform.system()} {release} on {machine}, Python {platform.python_version()}"
    if platform.system() != "Linux" or machine != "x86_64":
        return Finding("machine", "missing", text, "Laconic needs Linux on x86-64")
    version = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if version < (5, 3):
        return Finding(
            "machine", "missing", text, "Linux 5.3 or newer is needed, for PTRACE_GET_SYSCALL_INFO"
        )
    return Finding("machine", "ok", text)


def _in_child(trial: Callable[[], int]) -> int:
    # Try something in a child that exits with the errno, so that it has no effect on this process.
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = trial()
        finally:
            os._exit(min(code, 255))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _ptrace() -> Finding:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    seized = ptrace.seize(pid, ptrace.O_EXITKILL)
    os.close(write)
    os.waitpid(pid, 0x40000000)
    if seized:
        return Finding("ptrace", "ok", f"a child can be traced{_scope()}")
    return Finding(
        "ptrace",
        "missing",
        f"tracing a child of one's own was refused{_scope()}",
        "in Docker add --cap-add=SYS_PTRACE (or --security-opt seccomp=unconfined before 20.10); "
        "in Kubernetes add SYS_PTRACE to securityContext.capabilities; under Yama set "
        "kernel.yama.ptrace_scope below 3; leave any other tracer (strace, gdb)",
    )


def _scope() -> str:
    scope = yama_scope()
    return "" if scope is None else f" (kernel.yama.ptrace_scope is {scope})"


def _attach() -> Finding:
    # Try a process that does not descend from Laconic, because Yama restricts those.
    read, write = os.pipe()
    read_pid, write_pid = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        orphan = os.fork()
        if orphan == 0:
            os.read(read, 1)
            os._exit(0)
        os.write(write_pid, str(orphan).encode())
        os._exit(0)
    os.close(read)
    os.close(write_pid)
    os.waitpid(child, 0)
    pid = int(os.read(read_pid, 20))
    os.close(read_pid)
    seized = ptrace.seize(pid, 0)
    os.close(write)
    if seized:
        os.waitpid(pid, 0x40000000)
    if seized:
        whose = "any user" if capable(_CAP_SYS_PTRACE) else "this user (as root: of any)"
        return Finding("attach", "ok", f"running processes of {whose} can be attached to{_scope()}")
    cure = "run laconic as root"
    if yama_scope():
        cure += ", or sysctl kernel.yama.ptrace_scope=0"
    if yama_scope() == 3:
        cure = "set kernel.yama.ptrace_scope below 3 in /etc/sysctl.d, and start the machine again"
    else:
        cure += "; in a container, add --cap-add=SYS_PTRACE"
    text = f"processes that laconic has not started cannot be attached to{_scope()}"
    return Finding("attach", "limited", text, cure)


def _seccomp() -> Finding:
    code = _in_child(lambda: install_filter(pack_filter(build_filter())))
    if code == 0:
        return Finding(
            "seccomp", "ok", "a filter can be installed: only memory and process calls are stopped"
        )
    return Finding(
        "seccomp",
        "missing",
        f"the filter was refused, {os.strerror(code)}",
        "use a kernel with CONFIG_SECCOMP_FILTER, and a container profile that allows seccomp(2) "
        "and prctl(2)",
    )


def _setuid() -> Finding:
    if capable(_CAP_SYS_ADMIN) and capable(_CAP_SYS_PTRACE):
        return Finding(
            "set-user-id programs",
            "ok",
            "sudo, su and ping get their privileges, as for any child of root",
        )
    return Finding(
        "set-user-id programs",
        "limited",
        "sudo, su and ping run without their privileges: the kernel gives none to a traced "
        "program, and the filter needs no_new_privs",
        "run laconic itself as root if a program needs them",
    )


def _proc() -> Finding:
    try:
        host = proc.read_smaps(os.getpid())
        start = next(iter(host))[0]
        pagemap.Pagemap(os.getpid()).untouched(start, start + 4096, True)
        seen = proc.query_vma(os.getpid(), start)
    except (OSError, StopIteration) as error:
        text = f"maps, smaps or pagemap cannot be read, {error}"
        return Finding("/proc", "missing", text, "mount /proc without hidepid")
    assert seen is not None
    quick = [
        name
        for name, works in (("PROCMAP_QUERY", _works_query()), ("PAGEMAP_SCAN", _works_scan()))
        if works
    ]
    text = (
        "maps, smaps and pagemap can be "
        f"read{' (quickly: ' + ', '.join(quick) + ')' if quick else ''}"
    )
    return Finding("/proc", "ok", text)


def _works_query() -> bool:
    return proc.has_query(os.getpid())


def _works_scan() -> bool:
    return pagemap.has_scan(os.getpid())


def _limits() -> Finding:
    layout = proc.read_layout(os.getpid())
    text = f"vm.max_map_count {layout.max_map_count}, vm.mmap_min_addr {layout.mmap_min_addr}"
    text += ", huge-page alignment of anonymous memory " + ("on" if layout.thp_align else "off")
    keys = ctypes.CDLL(None).syscall(330, 0, 0)  # pkey_alloc
    if keys > 0:
        ctypes.CDLL(None).syscall(331, keys)
    return Finding("memory", "ok", text + ", protection keys " + ("on" if keys > 0 else "off"))


def _programs() -> Finding:
    return Finding(
        "programs",
        "limited",
        "32-bit programs run untouched and are not counted; gdb, strace and other tracers are "
        "refused inside a traced program",
        "trace from the outside: run gdb or strace without Laconic",
    )


def _trial() -> Finding:
    ledger = Ledger()
    mediator = Mediator(only_changes, ledger, Checker(ledger, "call"))
    try:
        status = Tracer(mediator).run([sys.executable, "-S", "-c", ""])
    except LaconicError as error:
        return Finding(
            "trial run", "missing", f"this Python could not be run, {error}", "see the lines above"
        )
    figures = f"{ledger.calls} memory calls, {ledger.elided} elided, {ledger.checks} checks"
    figures += f", {ledger.mismatches} mismatches"
    if status != 0 or ledger.mismatches:
        return Finding(
            "trial run",
            "missing",
            f"exit status {status}, {figures}",
            "please report this as a defect",
        )
    return Finding("trial run", "ok", f"this Python, every call verified: {figures}")

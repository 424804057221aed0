"""Advice that is followed: with all settings that Linux can check, a program runs as before, and
needs no more than the manifest's lines permit.

Variables and flags are set, and `ulimit -s` is `sys.stack.size`: also the size of a thread's stack
if the program does not choose one. The other lines of the manifest are compared with what the run
used.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from laconic.analysis.advise import advisor
from laconic.analysis.advise.advice import MANIFEST, Advice
from laconic.analysis.advise.figures import AdviceFigures, measure
from laconic.analysis.advise.trial import attempt, exceeded
from laconic.sgx import costs
from laconic.trace import Trace
from tests.apps.harness import Outcome, Place, place
from tests.apps.workloads import WORKLOADS, Workload

PROFILE = costs.load()
COLLECTORS = ("Serial", "Parallel", "G1")


def java(collector: str, mebibytes: int) -> Workload:
    """A program with so much live data, and the heap that the JVM chooses."""
    command = ("java", f"-XX:+Use{collector}GC", "-cp", ".", "Live", str(mebibytes))
    prepare = (("javac", "Live.java"),)
    return Workload(f"java-{collector}-{mebibytes}", command, ("java", "javac"), prepare)


def named(name: str, slow: bool = False) -> Any:
    """A workload of the table."""
    workload = next(each for each in WORKLOADS if each.name == name)
    return pytest.param(workload, id=name, marks=pytest.mark.slow if slow else ())


#: Without braces, which stand for the port in a workload's words.
RUBY = """
fibers = (1..200).map do |n|
  Fiber.new do
    Fiber.yield n
    2 * n
  end
end
puts fibers.map(&:resume).sum
"""
FOLLOWED = [
    named("python3"),
    named("node", slow=True),
    named("redis", slow=True),
    named("postgresql", slow=True),
    named("go", slow=True),
    named("python3-numpy", slow=True),
    pytest.param(Workload("ruby", ("ruby", "-e", RUBY), ("ruby",)), id="ruby",
                 marks=pytest.mark.slow),
    *(
        pytest.param(java(name, size), id=f"java-{name}-{size}", marks=pytest.mark.slow)
        for name in COLLECTORS
        for size in (16, 60, 400)
    ),
]  # fmt: skip


def traced(here: Place, trace: Path, limits: Sequence[str] = ()) -> tuple[Outcome, AdviceFigures]:
    """Runs a workload under Laconic, and what its trace shows."""
    words = ["-m", "laconic", "run", "--quiet", "--stacks", "none", "-o", str(trace), "--"]
    outcome = here.run([*limits, sys.executable, *words])
    return outcome, measure(lambda: Trace(str(trace)), PROFILE)


def followed(advice: Sequence[Advice], command: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command with the flags that are advised for it, and the variables."""
    words, env = list(command), dict[str, str]()
    for each in advice:
        way = attempt(each, words, env)
        if each.where != MANIFEST and not isinstance(way, str):
            words, env = way
    return words, env


@pytest.mark.parametrize("workload", FOLLOWED)
def test_advice_can_be_followed(workload: Workload, tmp_path: Path) -> None:
    if workload.missing():
        pytest.skip(workload.missing())
    with place(workload) as here:
        before, figures = traced(here, tmp_path / "a.trace")
        advice = advisor.advise(figures, PROFILE)
        lines = {each.option: each for each in advice}
        words, env = followed(advice, workload.command)
        here.workload = replace(workload, command=tuple(words))
        stack = lines["sys.stack.size"].figures["value"] >> 10
        limits = ["bash", "-c", f'ulimit -s {stack} && exec env "$@"', "bash"]
        limits += [f"{name}={value}" for name, value in env.items()]
        after, used = traced(here, tmp_path / "b.trace", limits)
    advised = json.dumps([words, env, stack])
    assert after.visible() == before.visible(), advised
    assert exceeded(advice, used, PROFILE) == [], advised
    peak = used.most(lambda image: image.peak_mapped)
    assert peak <= lines["sgx.enclave_size"].figures["value"], advised

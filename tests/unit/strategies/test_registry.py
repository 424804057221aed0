"""The registry of strategies: what it says of each, and a user's own strategy beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laconic.analysis.compare import compare_host_calls
from laconic.commands import main
from laconic.errors import LaconicError
from laconic.libos.strategy import Strategy
from laconic.linux.pal import only_changes
from laconic.memory.calls import Arguments
from laconic.memory.change import Outcome
from laconic.replay import replay_trace
from laconic.strategies import LINUX, NAMES, SGX2, has_rule, linux_rule, names_on, strategy
from laconic.strategies.classify import Classify
from laconic.trace.reader import Trace
from tests.helpers.traces import small


class NeverProtect(Strategy):
    """A user's strategy for Linux alone: an mprotect never reaches the host."""

    name = "never-protect"

    @staticmethod
    def linux_rule(name: str, args: Arguments, outcome: Outcome) -> Arguments | None:
        """Elide mprotects, and pass every other call on."""
        return None if name == "mprotect" else args


class Partial(Classify):
    """A user's strategy for both hosts that inherits the rule for Linux."""

    name = "partial"


@pytest.mark.parametrize("name", NAMES)
def test_the_registry_lists_the_hosts_for_which_a_class_has_a_rule(name: str) -> None:
    found = strategy(name)
    assert found.name == name
    assert (name in names_on(LINUX)) == (found.linux_rule is not None)
    assert name in names_on(SGX2) and has_rule(found, SGX2)


def test_a_strategy_is_given_by_name_by_place_or_as_its_class() -> None:
    place = f"{__name__}:Partial"
    assert strategy(Partial) is strategy(place) is Partial
    assert linux_rule(Partial) is linux_rule(place) is linux_rule("classify") is only_changes


def test_a_strategy_for_linux_alone_needs_no_methods_for_enclaves() -> None:
    assert has_rule(NeverProtect, LINUX) and not has_rule(NeverProtect, SGX2)
    with pytest.raises(LaconicError, match=r"'NeverProtect' lacks methods: define call, end, fork"):
        strategy(NeverProtect)


def test_options_are_for_enclaves_and_a_replay_there_accepts_them(tmp_path: Path) -> None:
    name = "laconic:batch=madvise"
    assert has_rule(name, SGX2) and not has_rule(name, LINUX)
    with pytest.raises(LaconicError, match="a strategy's options are for enclaves"):
        linux_rule(name)
    path = small(tmp_path / "a.trace")
    figures = tmp_path / "figures.json"
    words = ["replay", path, "--host", "sgx2", "--strategy", name, "--json", str(figures)]
    assert main(words) == 0
    replayed = json.loads(figures.read_text())
    assert list(replayed["enclave"]["strategies"]) == ["every-call", name]
    plain = replay_trace(path, "laconic")
    assert replay_trace(path, name).table_rows() == plain.table_rows()


def test_a_strategy_without_a_rule_for_linux_is_refused_there() -> None:
    class Enclave(Partial):
        linux_rule = None

    with pytest.raises(LaconicError, match="'Enclave' has no rule for Linux: define linux_rule"):
        linux_rule(Enclave)


@pytest.mark.parametrize("found", [str, "pathlib:Path", "pathlib:nothing", "no.such.module:Class"])
def test_what_is_not_a_strategy_is_named(found: str | type[Strategy]) -> None:
    with pytest.raises(LaconicError, match=r"is not a strategy|cannot be imported"):
        linux_rule(found)


def test_a_user_s_rule_for_linux_is_compared(tmp_path: Path) -> None:
    place = f"{__name__}:NeverProtect"
    compared = compare_host_calls(Trace(small(tmp_path / "a.trace")), ["every-call", place])
    passed = {
        name: replayed.ledger.by_call["mprotect"] for name, replayed in compared.strategies.items()
    }
    assert passed[place].host_calls == 0 < passed["every-call"].host_calls


def test_a_trace_s_recorded_strategy_imports_nothing(tmp_path: Path) -> None:
    path = small(tmp_path / "a.trace", about={"strategy": "no.such.module:Class", "command": ["a"]})
    assert replay_trace(Trace(path)).strategy == "no.such.module:Class"

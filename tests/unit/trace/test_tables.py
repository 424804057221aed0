"""Results as Arrow tables and as tables of a notebook."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from laconic import compare, compare_host_calls, find_sites, open_trace, replay_trace
from laconic.sgx.meter import THINGS
from laconic.trace.charts import VEGA_LITE
from laconic.trace.exporters.columns import COLUMNS
from tests.helpers.traces import small


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A log with two programs."""
    return small(tmp_path_factory.mktemp("tables") / "a.trace", source="strace")


def results(path: str) -> dict[str, Any]:
    """Every result that is a table."""
    return {
        "compare": compare(path),
        "compare_host_calls": compare_host_calls(path),
        "find_sites": find_sites(path),
        "replay_trace": replay_trace(path),
        "trace": open_trace(path),
    }


def test_a_comparison_is_a_row_for_each_strategy(path: str) -> None:
    compared = compare(path)
    rows = compared.to_arrow().to_pylist()
    assert [row["strategy"] for row in rows] == list(compared.strategies)
    for row in rows:
        figures = compared.strategies[row["strategy"]]
        assert (row["cycles_low"], row["cycles_high"]) == figures.total.cycles
        assert (row["peak_epc_pages_low"], row["peak_epc_pages"]) == figures.peak
        for thing in THINGS:
            assert row[thing] == getattr(figures.total.high, thing)
            assert row[f"{thing}_low"] == getattr(figures.total.low, thing)
    assert (rows[0]["ratio_low"], rows[0]["ratio_high"]) == (1.0, 1.0)


def test_without_every_call_there_are_no_ratios(path: str) -> None:
    (row,) = compare(path, ["laconic"]).to_arrow().to_pylist()
    assert row["ratio_low"] is None and row["ratio_high"] is None


def test_host_calls_are_a_row_for_each_strategy(path: str) -> None:
    rows = compare_host_calls(path, ["every-call", "laconic"]).to_arrow().to_pylist()
    assert [row["strategy"] for row in rows] == ["every-call", "laconic"]
    assert rows[0]["calls"] == rows[1]["calls"] == rows[0]["host_calls"] > 0
    assert rows[1]["host_calls"] + rows[1]["elided"] == rows[1]["calls"]


def test_a_replay_is_a_row_for_each_call(path: str) -> None:
    rows = replay_trace(path).to_arrow().to_pylist()
    assert [row["call"] for row in rows] == sorted(row["call"] for row in rows)
    assert {row["call"]: row["calls"] for row in rows}["mprotect"] == 2


def test_sites_are_rows_the_most_expensive_first(path: str) -> None:
    sites = find_sites(path, ["every-call"])
    table = sites.to_arrow()
    cycles = [low + high for low, high in zip(table["every_call_cycles_low"].to_pylist(),
              table["every_call_cycles_high"].to_pylist(), strict=True)]  # fmt: skip
    assert cycles == sorted(cycles, reverse=True) and cycles[0] > 0
    assert sum(table["calls"].to_pylist()) == sum(
        replay_trace(path).to_arrow()["calls"].to_pylist()
    )
    first = sites.most_expensive(1)
    assert len(first) == 1 and first[0].call == table["call"][0].as_py()
    assert sites.frames(first[0]) == [], "this log has no stacks"


def test_a_trace_is_the_rows_that_export_writes(path: str) -> None:
    table = open_trace(path).to_arrow()
    assert table.column_names == list(COLUMNS)
    assert table["call"].to_pylist().count("mprotect") == 2
    batches = list(open_trace(path).record_batches())
    assert pa.Table.from_batches(batches) == table


@pytest.mark.parametrize(
    "name", ["compare", "compare_host_calls", "find_sites", "replay_trace", "trace"]
)
def test_other_libraries_take_a_result_as_it_is(path: str, name: str) -> None:
    result = results(path)[name]
    table = result.to_arrow()
    frame = polars.DataFrame(result)
    assert frame.columns == table.column_names
    assert frame.rows(named=True) == table.to_pylist()
    assert pa.table(result) == table


def test_numbers_are_not_copied_out_of_arrow(path: str) -> None:
    chunk = open_trace(path).to_arrow()["time_ns"].chunk(0)
    numbers = chunk.to_numpy(zero_copy_only=True)
    assert numbers.__array_interface__["data"][0] == chunk.buffers()[1].address
    assert numbers.tolist() == chunk.to_pylist()


RESULTS = ["compare", "compare_host_calls", "find_sites", "replay_trace", "trace"]


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_a_chart_in_a_notebook(path: str, name: str) -> None:
    """The specification is one of Vega-Lite, with all its data: nothing is fetched. The HTML has
    the same bars."""
    altair = pytest.importorskip("altair")
    result = results(path)[name]
    bundle = result._repr_mimebundle_()
    assert set(bundle) == {"text/html", VEGA_LITE}
    spec = json.loads(json.dumps(bundle[VEGA_LITE]))
    chart = altair.Chart.from_dict(spec)  # raises where the schema of Vega-Lite says no
    assert chart.mark is not altair.Undefined
    assert "url" not in json.dumps(spec["data"])
    fields = {channel["field"] for channel in spec["encoding"].values() if "field" in channel}
    assert spec["data"]["values"] and all(fields <= set(bar) for bar in spec["data"]["values"])
    page = bundle["text/html"]
    assert page.startswith(result._repr_html_().partition("<p>")[0])
    assert page.count("<rect ") == len(spec["data"]["values"])
    assert set(result._repr_mimebundle_(include=[VEGA_LITE])) == {VEGA_LITE}
    assert set(result._repr_mimebundle_(exclude=[VEGA_LITE])) == {"text/html"}


def test_the_bars_are_the_results(path: str) -> None:
    """From the least to the most cycles of a strategy; calls of a trace by name."""
    compared = compare(path)
    bars = compared._repr_mimebundle_()[VEGA_LITE]["data"]["values"]
    assert {bar["label"]: (bar["start"], bar["end"]) for bar in bars} == {
        name: figures.total.cycles for name, figures in compared.strategies.items()
    }
    bars = open_trace(path)._repr_mimebundle_()[VEGA_LITE]["data"]["values"]
    assert {bar["label"]: bar["end"] for bar in bars}["mprotect"] == 2


def test_a_recorded_trace_shows_what_was_elided(tmp_path: Path) -> None:
    """Names are text, also in the HTML."""
    trace = open_trace(small(tmp_path / "<a>.trace", source="run"))
    bundle = trace._repr_mimebundle_()
    bars = bundle[VEGA_LITE]["data"]["values"]
    rows = trace.to_arrow().filter(pc.field("call") == "mprotect").to_pylist()
    host_calls = sum(row["host_calls"] for row in rows)
    found = {
        bar["series"]: (bar["start"], bar["end"]) for bar in bars if bar["label"] == "mprotect"
    }
    assert found == {"host calls": (0, host_calls), "elided": (host_calls, len(rows))}
    assert "&lt;a&gt;.trace" in bundle["text/html"] and "<a>" not in bundle["text/html"]


@pytest.mark.parametrize("name", ["compare", "compare_host_calls", "find_sites", "replay_trace"])
def test_a_result_is_a_table_in_a_notebook(path: str, name: str) -> None:
    result = results(path)[name]
    page = result._repr_html_()
    assert page.startswith("<table><thead><tr>") and page.endswith("</tbody></table>")
    assert page.count("<tr>") == 1 + result.to_arrow().num_rows
    assert page.count("<th>") == len(result.shown_columns())

"""The report as a file, and in a browser where there is one."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from made_up import make_measurement

from molmoact2_edge.config import load_robot
from molmoact2_edge.profile import Measurement, ProfileSettings, as_text, build_document, page

CONFIG = load_robot("so101")
SETTINGS = ProfileSettings(duration_s=10.0, loads=("cpu", "gil"))
POLICY = {"checkpoint": "<b>x</b></script>", "device": "cpu", "dtype": "float32", "first_call_ms": 31.0}


def report(measurement: Measurement, policy: dict[str, Any] | None = None) -> tuple[dict[str, Any], str]:
    document = build_document(measurement, SETTINGS, CONFIG, policy)
    return document, page(document, measurement, list(CONFIG.joints))


def test_the_page_needs_nothing_else_and_says_the_verdict(measurement: Measurement) -> None:
    document, text = report(measurement, POLICY)
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?://(?!www\.w3\.org/2000/svg)""", text)
    assert html.escape(document["verdict"]["text"]) in text
    assert "{{" not in text.replace("${{", "")
    assert text.count("<script") == text.count("</script>") == 2
    json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]


def test_names_from_outside_are_text_not_markup(measurement: Measurement) -> None:
    document = build_document(measurement, SETTINGS, CONFIG)
    document["machine"]["processor"] = "<img onerror=alert(1)>"
    text = page(document, measurement, ["</script><b>", "{{data}}", "a", "b", "c", "d"])
    assert "<img" not in text
    assert text.count("</script>") == 2


def test_the_document_is_json_with_every_figure_of_both_loops(measurement: Measurement) -> None:
    document, _ = report(measurement, POLICY)
    document = json.loads(json.dumps(document, allow_nan=False))
    for loop in document["loops"].values():
        assert sum(loop["period_error_histogram"]["counts"]) == loop["period_error"]["count"] == 1999
        assert list(loop["stages"]) == ["wake-up", "read", "compute", "write"]
    cpp, python = document["loops"]["cpp"], document["loops"]["python"]
    ratio = python["period_error"]["p99_ms"] / cpp["period_error"]["p99_ms"]
    assert document["python_over_cpp"]["period_error_p99"] == pytest.approx(ratio, abs=0.06)
    assert python["skipped_periods"] == 2
    assert document["predictions"]["calls"] == 3
    assert list(document["predictions"]["stages"]) == ["vision", "flow", "total"]
    assert document["scheduling"]["cpp_thread"]["policy"] == "SCHED_FIFO"
    for key in ("kernel", "preempt_rt", "governor", "virtual_machine", "processor"):
        assert key in document["machine"]
    assert document["system"]["processor_time_shares"]["steal"] == 0.0


def test_the_table_ends_with_the_verdict(measurement: Measurement) -> None:
    document, _ = report(measurement, POLICY)
    lines = as_text(document).splitlines()
    assert lines[-1] == document["verdict"]["text"]
    assert any(line.startswith("period error, C++") for line in lines)
    assert any(line.startswith("policy, flow") for line in lines)


# In a browser ------------------------------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

# Reports errors and what was drawn in the DOM, which --dump-dom prints.
_WATCH = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(String(event.message)));
addEventListener("load", () => setTimeout(() => {
  const plots = {};
  for (const plot of document.querySelectorAll(".plot")) {
    const boxes = [...plot.querySelectorAll("svg")].map((svg) => svg.getBBox());
    plots[plot.id] = {
      svgs: boxes.length,
      shapes: plot.querySelectorAll("path, rect, line").length,
      texts: [...plot.querySelectorAll("text")].map((text) => text.textContent),
      broken: plot.innerHTML.includes("NaN") || plot.innerHTML.includes("undefined"),
      filled: boxes.every((box) => box.width > 150 && box.height > 50),
    };
  }
  const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  const result = document.createElement("pre");
  result.id = "watched";
  result.textContent = JSON.stringify({ errors, plots, wide });
  document.body.appendChild(result);
}, 50));
</script>"""


def watched(text: str, directory: Path, width: int) -> dict[str, Any]:
    assert CHROMIUM is not None
    file = directory / "report.html"
    file.write_text(text.replace("<head>", f"<head>{_WATCH}", 1), encoding="utf-8")
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},2000",
        f"--user-data-dir={directory / 'browser'}", "--virtual-time-budget=2000", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="watched">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:]
    result: dict[str, Any] = json.loads(html.unescape(found[1]))
    return result


@needs_browser
@pytest.mark.parametrize("width", [500, 1100])
@pytest.mark.parametrize("calls", [0, 3])
def test_a_browser_draws_every_plot_without_an_error(calls: int, width: int, tmp_path: Path) -> None:
    measurement = make_measurement(calls)
    _, text = report(measurement, POLICY if calls else None)
    result = watched(text, tmp_path, width)
    assert result["errors"] == []
    assert not result["wide"], "the page is wider than the window"
    plots = result["plots"]
    assert {name: plot["svgs"] for name, plot in plots.items()} == {
        "histogram": 1, "timeline": 1, "waterfall": 3 if calls else 2, "tracking": 6
    }  # fmt: skip
    for name, plot in plots.items():
        assert plot["filled"], name
        assert not plot["broken"], name
        assert plot["shapes"] >= 10, name
    assert {"10 ms", "period error", "ticks"} <= set(plots["histogram"]["texts"])
    assert {"seconds", "1 ms"} <= set(plots["timeline"]["texts"])
    assert {"wake-up", "read", "compute", "write"} <= set(plots["waterfall"]["texts"])
    assert set(CONFIG.joints) <= set(plots["tracking"]["texts"])


@needs_browser
def test_an_error_of_the_script_would_be_seen(tmp_path: Path) -> None:
    _, text = report(make_measurement())
    broken = text.replace('"p99_ms":{', '"p99":{', 1)
    assert broken != text
    assert watched(broken, tmp_path, 900)["errors"] != []

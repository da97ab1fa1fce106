"""The report is one page that opens without a network."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from runtime.evaluation.matrix.measuring import BINS
from runtime.evaluation.matrix.runs import Run
from runtime.evaluation.report import plots_of_extras, plots_of_runs, write_report
from s2d_trt.errors import OptionError

CHROMIUM = shutil.which("chromium")


def run(policy: str) -> Run:
    units = [
        {
            "key": f"0/{index}/0", "category": f"file {index % 2}", "exact": True, "identical": True,
            "bit_identical": True, "reliability": [[4, 0.1 * row, 2] for row in range(BINS)],
            "drafted": {
                "new_tokens": 20, "seconds": 1.0 + index / 10, "accept_lengths": [2, 3], "exits": {"6": 3, "9": 1},
                "parts": {"prefill": 0.1, "draft": 0.2, "verify": 0.6, "other": 0.1},
                "drafted_at_depth": [4, 3], "accepted_at_depth": [3, 1],
            },
            "alone": {"new_tokens": 20, "seconds": 2.0},
        }
        for index in range(4)
    ]  # fmt: skip
    settings = {"target": "t<17>", "draft": "d", "precision": "", "temperature": 0.0, "policy": policy, "texts": 1}
    return Run(settings, {"time": "now", "processor": "p"}, units)


EXTRAS = {
    "tuning": {
        "surface": [{"first": 0.1, "second": 0.2, "speedup": 1.5}, {"first": 0.3, "second": 0.2, "speedup": 1.4}]
    },
    "advice": {"settings": [{"setting": "a", "ms_per_token": 1.0, "cost_per_million": 2.0, "on_front": True}]},
    "prediction": {"compared": [{"predicted": 1.5, "measured": 1.6}, {"predicted": 1.2, "measured": 1.1}]},
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    files = {}
    for name, data in EXTRAS.items():
        files[name] = folder / f"{name}.json"
        files[name].write_text(json.dumps(data))
    write_report([run("default"), run("published")], files, folder / "report.html", folder / "svg")
    return folder / "report.html"


def test_every_plot_is_there_as_svg_too(report: Path) -> None:
    names = {plot.name for plot in (*plots_of_runs([run("default")]), *plots_of_extras(EXTRAS))}
    assert names == {
        "speedup", "categories", "depth", "exits", "parts", "calibration", "thresholds", "pareto", "prediction",
    }  # fmt: skip
    for name in names:
        assert (report.parent / "svg" / f"{name}.svg").read_text().startswith("<svg")


def test_the_page_loads_nothing_from_elsewhere(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    outside = re.sub(r"<script type=.module.>.*</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href)\s*=|url\(|@import""", outside)
    assert "t&lt;17&gt;" in outside


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page with")
def test_a_browser_without_a_network_draws_all_plots(report: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path}", report.as_uri(),
    ]  # fmt: skip
    page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert re.sub(r"<script type=.module.>.*</script>", "", page, flags=re.DOTALL).count("<svg") == 9


def test_a_damaged_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(OptionError, match="it is not JSON"):
        write_report([run("default")], {"tuning": tmp_path / "x.json"}, tmp_path / "r.html")

"""Tables and figures of measured networks, and the command that writes them."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from planted import CENTRE, SETTINGS, SIZE, PlantedNetwork, planted_batches
from rich.console import Console

from interp_cnn.cli.main import main
from interp_cnn.evaluation.filters.comparison import compare, measure_network
from interp_cnn.report.console import summary_table
from interp_cnn.report.evaluation.ranked_filters import ranked_filters
from interp_cnn.report.evaluation.tables import coverage_line, markdown, positions_sheet, write_measures


@pytest.fixture(scope="module")
def comparison():
    def measured(name, network):
        batches = planted_batches(masks=True)
        return measure_network(network, batches, **SETTINGS, name=name, parts=("head", "tail"))

    blind = PlantedNetwork()
    with torch.no_grad():
        blind.read.weight[0] = 0
    return compare([measured("package.module:net", PlantedNetwork())], untrained=measured("blind", blind))


def test_every_figure_of_the_table_has_its_interval_and_n(comparison):
    text = markdown(comparison)
    rows = [line for line in text.splitlines() if line.startswith("| ") and "[" in line]
    assert any(row.startswith("| package.module:net |") for row in rows)
    assert any(row.startswith("| untrained network |") for row in rows)
    for row in rows:
        for cell in row.split("|")[2:-1]:
            assert not cell.strip() or ("[" in cell and ", n = " in cell), row
    accuracy = comparison.networks[0].accuracy
    assert f"{accuracy.value:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}], n = 120" in text
    assert "1 of 4 filters follow a part; they cover 1 of 2 parts" in text


def test_the_printed_table_cuts_nothing_in_80_columns(comparison):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary_table(comparison))
    text = console.export_text()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    landmarked = comparison.networks[0].summary["tracking_gain"].n
    assert landmarked < 120 and f"120/{landmarked}" in text


def test_the_untrained_network_is_a_row_among_the_baselines(comparison):
    row = comparison.baselines["untrained"]
    assert row["tracking_gain"].value < comparison.networks[0].summary["tracking_gain"].value
    assert comparison.table()["name"].tolist()[-1] == "untrained"


def test_all_figures_are_drawn_and_nothing_else_is_left(comparison, tmp_path):
    write_measures(comparison, tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    measures = (
        "location_instability",
        "tracking_gain",
        "offset_gain",
        "translation_gain",
        "part_interpretability",
    )
    assert names == {
        f"figures/{name}.png" for name in (*measures, "parts", "positions-package.module-net")
    } | {
        "filters.csv",
        "summary.csv",
        "differences.csv",
        "summary.json",
        "summary.md",
    }
    assert len(pd.read_csv(tmp_path / "filters.csv")) == 4
    assert "untrained" in json.loads((tmp_path / "summary.json").read_text())["baselines"]
    for path in (tmp_path / "figures").iterdir():
        assert np.asarray(Image.open(path)).std() > 5, path.name


def test_a_constant_filter_is_one_disc_in_the_middle_of_its_mean_image(comparison):
    one = comparison.networks[0]
    assert torch.allclose(
        one.mean_image, torch.cat([b.images for b in planted_batches()]).mean(dim=0), atol=1e-6
    )
    sheet = positions_sheet(one).astype(int)
    yellow = (sheet[..., 0] > 150) & (sheet[..., 1] > 120) & (sheet[..., 2] < 120)
    # ranked by gain: the dot, the constant, the noise; pictures of 180 pixels, 10 apart, drawn twice as large
    scale = sheet.shape[1] / (3 * 190 + 10)
    columns = [10 + 190 * place + np.arange(180) for place in range(3)]
    lit = [yellow[:, (columns[place] * scale).astype(int)] for place in range(3)]
    assert lit[0].sum() > 3 * lit[1].sum() > 0, "one disc against many"
    across = np.nonzero(lit[1].any(axis=0))[0].mean()
    assert across == pytest.approx((CENTRE[1] + 0.5) * 180 / SIZE, abs=1.5)


def test_ranked_filters_show_the_best_and_the_worst_where_they_look(comparison):
    one = comparison.networks[0]
    images = torch.cat([batch.images for batch in planted_batches()])
    sheet = ranked_filters(one, lambda number: images[number]).astype(int)
    yellow = (sheet[..., 0] > 200) & (sheet[..., 1] > 120) & (sheet[..., 2] < 110)
    rows = np.array_split(yellow, 5)  # best, ..., worst
    assert rows[0].any() and rows[-1].any()
    assert ranked_filters(replace(one, filters=one.filters.assign(offset_gain=math.nan)), None) is None


def test_without_parts_there_is_no_part_bar(tmp_path):
    batches = planted_batches(parts=0)
    measures = measure_network(PlantedNetwork(), batches, **SETTINGS, name="plain", parts=(), probes=False)
    assert math.isnan(measures.summary["tracking_gain"].value)
    write_measures(compare([measures]), tmp_path)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"positions-plain.png"}
    assert coverage_line(measures) == "0 of 4 filters follow a part; they cover 0 of 0 parts"


FACTORY = """
import torch
from torch import nn

def network(num_classes=10):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes)
    )
"""


@pytest.mark.slow
def test_a_network_of_ones_own_is_measured_without_a_word_about_its_layer(tmp_path, monkeypatch, capfd):
    (tmp_path / "my_factory.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    words = [
        "evaluate",
        "network=my_factory:network",
        "data=digits",
        "data.image_size=16",
        "data.scale=[1.0,1.5]",
    ]
    assert (
        main([*words, "regions.field=exact", "regions.tail=0.05", "resamples=20", "hydra.run.dir=out"]) == 0
    )
    assert "tables and figures: out" in capfd.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["networks"][0]["layer"] == "1", "the last feature maps"
    assert "untrained" not in summary["baselines"], "nobody knows what the factory gave"
    assert main([*words, "regions.field=box", "hydra.run.dir=other"]) == 2
    assert "regions.field is 'box'; expected round or exact" in capfd.readouterr().err
    assert not (tmp_path / "other" / "summary.md").exists()

"""The HTML report: self-contained, escaped, and right in what it draws."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from records_for_tests import make

from vtbench import instances, samples
from vtbench.report import correlations, plots, rates
from vtbench.report.gallery import gather
from vtbench.report.html import curve_plots, json_for_script

pytest.importorskip("jinja2")
from vtbench.report.html import page

EVIL = '</script><script>alert(1)</script>"><img src=x onerror=alert(2)>{{ 7*7 }}'
VOID = {"meta", "link", "img", "input", "br", "hr", "circle", "path"}


class Structure(HTMLParser):
    """Open and close tags must nest; every src and href is collected."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.data = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "xlink:href")]
        assert not [name for name, _ in attrs if name.startswith("on")], attrs

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, (tag, self.getpos())


def parsed(text: str) -> Structure:
    found = Structure()
    found.feed(text)
    assert found.open == []
    return found


@pytest.fixture
def store(tmp_path):
    """Two records with kept pictures and words."""
    records = [
        make(tmp_path, "tiny", tokens=(64,), n=9),
        make(
            tmp_path,
            "jpeg",
            params={"quality": 30},
            tokens=(None,),
            n=9,
            seed=1,
            card={"form": "codec", "kind": "bytes"},
        ),
    ]
    for number, (record, point) in enumerate(zip(records, ("256-64tokens", "256")), 1):
        for kind in ("original", "reconstruction"):
            folder = tmp_path / "images" / record.run_id / point / kind
            folder.mkdir(parents=True)
            for i in range(9):
                shade = 20 * i + (number if kind == "reconstruction" else 0)
                Image.new("RGB", (32, 32), (shade, 99, 7)).save(folder / f"set{i % 3}__img{i:04d}.png")
        line = {"resolution": 256, "tokens": record.rows[0].tokens, "protocol": "tokbench-light", "kind": "word"}
        line |= {"id": "set0/img0000", "instance": 0, "truth": EVIL, "read": "abc", "original": EVIL, "confidence": 0.9}
        line |= {
            "x0": 0.0,
            "y0": 8.0,
            "x1": 16.0,
            "y1": 16.0,
            "value": 0.0,
            "ratio": 0.03,
            "width": 32,
            "height": 32 if number == 1 else 31,
        }
        instances.write(tmp_path, record.run_id, [line])
    return tmp_path, records


def test_the_page_is_whole_and_loads_nothing(store):
    out, records = store
    text = page(records, out)
    found = parsed(text)
    assert all(link.startswith(("#", "data:")) for link in found.links), found.links
    assert "http" not in re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]+", "", text).replace("http-equiv", "")
    assert "default-src 'none'" in text
    for words in (
        "torch-fidelity",
        "fit",
        "short-side-crop",
        "abc1234",
        "sha256:6726825d",
        "the weights have no logits",
    ):
        assert words in text


def test_hostile_text_is_text_everywhere(tmp_path):
    record = make(tmp_path, EVIL, status="partial", card={"title": EVIL, EVIL: [EVIL]}, n=6)
    record.failures[0].reason = EVIL
    record.rows[0].why = EVIL
    record.protocols[EVIL] = {"view": {EVIL: EVIL}}
    clean = parsed(page([make(None, "a", n=6)], tmp_path)).tags
    text = page([record], tmp_path, title=EVIL)
    found = parsed(text)
    assert found.tags.count("script") == clean.count("script")
    assert "img" not in found.tags
    assert "alert(1)" in text
    assert "49" not in re.findall(r"<title>(.*?)</title>", text)[0]


def test_the_gallery_holds_every_picture_once_with_its_values(store):
    out, records = store
    gallery = gather(records, out)
    data = gallery.data
    assert [m["name"] for m in data["models"]] == ["tiny · 64 tokens", "jpeg:quality=30"]
    assert len(data["items"]) == 9
    assert len(data["pictures"]) == 9 * 3  # the original is shared
    item = next(i for i in data["items"] if i["id"] == "set0/img0000")
    table = samples.read(out, records[1].run_id, metric="psnr").to_pydict()
    expected = table["value"][table["id"].index("set0/img0000")]
    assert item["values"]["psnr"][1] == pytest.approx(expected)
    (word,) = item["words"]
    assert word["truth"] == EVIL
    assert word["box"] == [0, 0.25, 0.5, 0.5]
    assert word["made"][1] == {"read": "abc", "sure": 0.9, "value": 0.0}
    text = page(records, out)
    body = text.split('id="data">', 1)[1].split("</script>", 1)[0]
    assert json.loads(body)["items"][0]["words"][0]["truth"] == EVIL


def test_a_large_gallery_keeps_the_worst_and_the_best(store):
    out, records = store
    gallery = gather(records, out, limit=6)
    kept = {i["id"] for i in gallery.data["items"]}
    means = {}
    for record in records:
        table = samples.read(out, record.run_id, metric="psnr").to_pydict()
        for sample, value in zip(table["id"], table["value"]):
            means.setdefault(sample, []).append(value)
    ordered = sorted(means, key=lambda s: np.mean(means[s]))
    assert {*ordered[:2], *ordered[-2:]} <= kept
    assert len(kept) <= 6
    assert "of 9 kept samples" in gallery.notes[0]


def test_a_page_without_pictures_has_no_gallery(tmp_path):
    text = page([make(tmp_path, n=6)], tmp_path)
    assert 'id="gallery"' not in text
    parsed(text)


def test_json_cannot_end_its_script():
    text = json_for_script({"a": "</script>&<!--\u2028", "b": math.inf})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script>&<!--\u2028", "b": "inf"}


def test_charts_leave_out_what_cannot_be_drawn_and_say_so():
    series = [
        plots.Series(
            "<b>", [plots.Point(1, math.inf), plots.Point(0.0, 1.0), plots.Point(2, 3, 1, 5), plots.Point(3, 3)]
        )
    ]
    svg = plots.chart("t", "x", "y", series, log_x=True)
    parsed(svg)
    assert svg.count("<circle") == 2
    assert "2 points are not finite" in svg
    assert "&lt;b&gt;" in svg
    assert plots.chart("t", "x", "y", [plots.Series("a", [plots.Point(1, math.nan)])]) == ""
    assert "NaN" not in svg
    same = plots.chart("t", "x", "y", [plots.Series("a", [plots.Point(5, 7)])])
    assert all(math.isfinite(float(v)) for v in re.findall(r'c[xy]="([^"]+)"', same))


def test_bd_rate_of_half_the_bits_is_minus_fifty_percent():
    jpeg = [(0.25, 26.0), (0.5, 29.0), (1.0, 32.0), (2.0, 35.0)]
    half = [(r / 2, q) for r, q in jpeg]
    percent, low, high = rates.bd_rate(jpeg, half)
    assert percent == pytest.approx(-50)
    assert (low, high) == (26.0, 35.0)
    assert rates.bd_rate(half, jpeg)[0] == pytest.approx(100)
    assert rates.bd_rate(jpeg, jpeg)[0] == pytest.approx(0)
    lpips = [(r, -q) for r, q in jpeg]  # lower is better: quality falls as bits rise
    assert rates.bd_rate(lpips, [(r / 2, q) for r, q in lpips])[0] == pytest.approx(-50)


def test_bd_rate_refuses_what_it_cannot_say():
    curve = [(0.5, 29.0), (1.0, 32.0)]
    assert rates.bd_rate(curve, [(0.5, 29.0)]) is None
    assert rates.bd_rate(curve, [(0.5, 40.0), (1.0, 42.0)]) is None
    assert rates.bd_rate(curve, [(0.5, 29.0), (0.7, 28.0), (1.0, 32.0)]) is None
    assert rates.bd_rate(curve, [(0.5, math.inf), (1.0, 32.0)]) is None


def test_prefix_lengths_and_codec_qualities_are_curves_and_other_data_are_not_mixed():
    codec = {"form": "codec"}
    records = [
        make(None, "tiny", tokens=(64, 256)),
        make(None, "jpeg", params={"quality": 30}, tokens=(None,), bpp=0.5, card=codec, seed=1),
        make(None, "jpeg", params={"quality": 60}, tokens=(None,), bpp=0.9, quality=2, card=codec, seed=2),
        make(None, "elsewhere", dataset="folder:x", seed=3),
    ]
    found = rates.curves(records)
    psnr = found["demo", "psnr", "all", 256, "rgb8"]
    assert {name: len(points) for name, points in psnr.items()} == {"tiny": 2, "jpeg": 2}
    assert any("dashed" in svg for svg in rates.plots(records))


def test_correlations_equal_scipys(tmp_path):
    stats = pytest.importorskip("scipy.stats")
    record = make(tmp_path, n=40)
    found, clouds = correlations.correlate([record], tmp_path)
    one = next(c for c in found if (c.picture, c.instance) == ("psnr", "t_acc"))
    table = samples.read(tmp_path, record.run_id).to_pydict()
    rows = list(zip(table["metric"], table["id"], table["value"]))
    psnr = {i: v for m, i, v in rows if m == "psnr"}
    pairs = [(psnr[i], v) for m, i, v in rows if m == "t_acc"]
    assert one.n == len(pairs) == 80
    assert one.pearson == pytest.approx(stats.pearsonr(*zip(*pairs)).statistic)
    assert one.spearman == pytest.approx(stats.spearmanr(*zip(*pairs)).statistic)
    assert len(clouds) == 3
    assert math.isnan(correlations.pearson([1.0, 1.0], [1.0, 2.0]))


def test_curves_in_the_notes_are_drawn():
    record = make(None, "tiny")
    curve = {"rank": [1, 10, 100], "frequency": [0.5, 0.05, 0.005], "fit": [0.4, 0.05, 0.006]}
    record.rows[0].notes = {"curve": curve, "n": 3, "ragged": {"a": [1, 2], "b": [1]}}
    record.rows[1].notes = {"profile": [float(i) for i in range(9)], "plain": [2.0] * 9, "shape": [3, 3]}
    svg, profile = curve_plots([record])
    assert svg.count('class="line') == 2
    assert "dashed" in svg
    assert profile.count('class="line') == 2
    assert "position" in profile


def test_instances_read_back(tmp_path):
    line = dict.fromkeys(instances.COLUMNS)
    line |= {
        "kind": "word",
        "id": "a/b",
        "instance": 3,
        "truth": "x",
        "read": "",
        "confidence": 0.5,
        "x0": float("nan"),
    }
    instances.write(tmp_path, "run", [line])
    (back,) = instances.read(tmp_path, "run").to_pylist()
    assert back["instance"] == 3
    assert math.isnan(back["x0"])
    assert back["tokens"] is None
    assert instances.write(tmp_path, "run", []) is None
    assert instances.read(tmp_path, "run") is None

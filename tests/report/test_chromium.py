"""The page in a browser: nothing overflows, nothing is loaded, nothing is complained of."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_page import HOSTILE, full

from modelcut.report import render
from modelcut.report.charts import charts

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome")
     if (path := shutil.which(name))), None,
)  # fmt: skip
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")

LOOK = """
<script>
const root = document.documentElement, found = {width: root.clientWidth};
found.overflow = root.scrollWidth - root.clientWidth;
found.outside = [...document.querySelectorAll('body *')].filter(e =>
  !e.closest('.wide') && !e.closest('svg') && e.getBoundingClientRect().right > root.clientWidth + 1
).map(e => e.tagName);
found.charts = [...document.querySelectorAll('svg')].map(svg => {
  const box = svg.getBoundingClientRect(), marks = svg.querySelectorAll('path,use,rect').length;
  const cut = [...svg.querySelectorAll('text')].filter(t => {
    const own = t.getBoundingClientRect();
    return own.left < box.left - 2 || own.right > box.right + 2 || own.bottom > box.bottom + 2;
  }).map(t => t.textContent);
  return {width: box.width, height: box.height, marks, cut};
});
found.broken = [...document.querySelectorAll('td')].filter(cell => {
  if (!/^\\S*\\d\\S*$/.test(cell.textContent) || !cell.firstChild) return false;
  const all = document.createRange();
  all.selectNodeContents(cell);
  return new Set([...all.getClientRects()].map(box => box.top)).size > 1;
}).filter(cell => cell.cellIndex > 0 && !cell.matches('.l')).map(cell => cell.textContent);
found.paper = getComputedStyle(document.body).backgroundColor;
found.ink = getComputedStyle(document.body).color;
found.names = document.body.textContent.includes(%s);
found.foreign = document.querySelectorAll('script,img,iframe,object,link').length;
parent.document.title = '@@' + JSON.stringify(found) + '@@';
</script>
"""


def chromium(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    call = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-extensions"]
    call += [f"--user-data-dir={folder / 'profile'}", *map(str, arguments)]
    return subprocess.run(
        call, capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(folder)}
    )


def looked_at(folder: Path, text: str, width: int, *, dark: bool, name: str) -> dict:
    """What a script in a copy of the page sees, in a frame: windows are 500 pixels wide or more."""
    text = re.sub(r"<meta http-equiv=.*?>", "", text)
    script = LOOK % json.dumps(name).replace("</", "<\\/")
    inner = html.escape(text.replace("</body>", f"{script}</body>"))
    page = folder / "frame.html"
    page.write_text(
        f'<title></title><iframe width="{width}" height="900" srcdoc="{inner}"></iframe>'
    )
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    done = chromium(folder, "--window-size=1600,1000", scheme, "--dump-dom", page.as_uri())
    told = re.search(r"<title>@@(.*?)@@</title>", done.stdout, re.DOTALL)
    assert told, done.stderr[-2000:]
    return json.loads(html.unescape(told[1]))


@pytest.fixture(scope="module")
def hostile():
    from dataclasses import replace

    def made_of(made):
        report = full(made)
        layers = tuple(
            replace(layer, name=name, tensors=(replace(layer.tensors[0], name=name),))
            for layer, name in zip(report.layers, (HOSTILE[0], HOSTILE[2] * 30), strict=True)
        )
        return replace(report, layers=layers, warnings=HOSTILE, notes=("x" * 300,))

    return made_of


@pytest.mark.parametrize(("width", "dark"), [(360, False), (1440, True)])
def test_nothing_overflows_and_every_chart_has_its_data(made, hostile, tmp_path, width, dark):
    report = hostile(made)
    text = render(report, "html")
    found = looked_at(tmp_path, text, width, dark=dark, name=HOSTILE[0])
    assert abs(found["width"] - width) <= 20, found["width"]
    assert found["overflow"] <= 0
    assert found["outside"] == []
    assert found["broken"] == []  # no number is split over two lines
    assert len(found["charts"]) == len(list(charts(report)))
    for chart in found["charts"]:
        assert chart["width"] >= 280
        assert chart["height"] > 60
        assert chart["marks"] >= 5
        assert chart["cut"] == []
    assert found["names"]  # "<script>…" stands there as text
    assert found["foreign"] == 1  # the one that looks
    light = [int(part) for part in re.findall(r"\d+", found["paper"])][:3]
    assert (max(light) < 60) is dark
    assert found["ink"] != found["paper"]


def test_the_browser_has_nothing_to_complain_of_and_prints_it(made, hostile, tmp_path):
    page = tmp_path / "o.report.html"
    page.write_text(render(hostile(made), "html"))
    pdf = tmp_path / "o.pdf"
    done = chromium(
        tmp_path, "--enable-logging=stderr", f"--print-to-pdf={pdf}", "--no-pdf-header-footer",
        page.as_uri(),
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    assert pdf.read_bytes().startswith(b"%PDF")
    assert pdf.stat().st_size > 10_000

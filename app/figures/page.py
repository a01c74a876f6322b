"""Charts in a page of their own: the library once, every chart a piece of HTML that needs no network."""

from __future__ import annotations

import html

from plotly.offline import get_plotlyjs

from analysis.errors import visible
from app.figures.base import Drawing


def script() -> str:
    """The library that draws the charts, to stand once in the page, before them."""
    return f"<script>{get_plotlyjs()}</script>"


def embedded(drawing: Drawing, name: str) -> str:
    """A chart with its takeaway and two buttons that save it as a picture; ``name`` is unique in the page."""
    content = (drawing.figure.to_json() or "").replace("</", "<\\/")  # or a text could end the script
    said = html.escape(visible(drawing.takeaway))
    saves = "".join(
        f"<button type=button onclick=\"save('{name}','{kind}')\">Save as {kind.upper()}</button>"
        for kind in ("svg", "png")
    )
    return (
        f'<figure><div id="{name}" class="chart" role="img" aria-label="{said}"></div>'
        f"<figcaption>{said} <span class=saves>{saves}</span></figcaption></figure>"
        f"<script>draw('{name}',{content})</script>"
    )


FUNCTIONS = """<script>
function draw(name, figure) {
  Plotly.newPlot(name, figure.data, figure.layout, {responsive: true, displayModeBar: false});
}
function save(name, format) {
  const chart = document.getElementById(name);
  Plotly.downloadImage(chart, {format, scale: 2, filename: "slicescope-" + name,
    width: chart.clientWidth, height: chart.clientHeight});
}
window.addEventListener("beforeprint", () => document.querySelectorAll(".chart").forEach(
  chart => Plotly.relayout(chart, {width: 640})));
window.addEventListener("afterprint", () => document.querySelectorAll(".chart").forEach(
  chart => Plotly.relayout(chart, {width: null, autosize: true})));
</script>"""
"""What the charts and their buttons call."""

"""What the pages of tables and figures look like on a screen and on paper."""

from __future__ import annotations

import base64
import html

STYLE_SHEET = """:root{color-scheme:light dark}
body{font:14px/1.45 system-ui,sans-serif;margin:1rem;color:CanvasText;background:Canvas}
div{overflow-x:auto}
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid #8885}
th:first-child,td:first-child{text-align:left;white-space:normal;min-width:9rem;
position:sticky;left:0;background:Canvas}
.text td,.text th,.text td:first-child{white-space:normal;text-align:left;min-width:0}
.sortable th{cursor:pointer}
th[aria-sort=ascending]::after{content:" \\25b2"}
th[aria-sort=descending]::after{content:" \\25bc"}
p{max-width:60rem}
@page{size:landscape;margin:12mm}
@media print{:root{color-scheme:light}body{font-size:9px;margin:0}div{overflow:visible}
input{display:none}th,td{white-space:normal;padding:.15rem .3rem}tr{break-inside:avoid}
thead{display:table-header-group}}"""

# a click on a title sorts by that column, by numbers where they begin with one; long tables have a
# field that keeps the rows with its text
SCRIPT = """for (const table of document.querySelectorAll(".sortable")) {
  const body = table.tBodies[0], titles = [...table.tHead.rows[0].cells];
  const text = (row, column) => row.cells[column].textContent.trim();
  const value = (row, column) => parseFloat(text(row, column).replaceAll(",", ""));
  titles.forEach((title, column) => {
    title.tabIndex = 0;
    title.onkeydown = (event) => event.key === "Enter" && title.onclick();
    title.onclick = () => {
      const sign = title.ariaSort === "ascending" ? -1 : 1;
      titles.forEach((other) => other.removeAttribute("aria-sort"));
      title.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      body.append(...[...body.rows].sort((a, b) => {
        const x = value(a, column), y = value(b, column);
        if (isNaN(x) !== isNaN(y)) return isNaN(x) - isNaN(y);
        return sign * (isNaN(x) ? text(a, column).localeCompare(text(b, column)) : x - y);
      }));
    };
  });
  if (body.rows.length > 10) {
    const field = document.createElement("input");
    field.placeholder = field.ariaLabel = "rows with this text";
    field.oninput = () => { for (const row of body.rows)
      row.hidden = !row.textContent.toLowerCase().includes(field.value.toLowerCase()); };
    table.before(field);
  }
}"""

FIGURE_SHEET = """body{margin:0;background:#fff}
img{display:block;margin:auto;max-width:100%;max-height:100vh;cursor:zoom-in}
img.whole{max-width:none;max-height:none;cursor:zoom-out}"""


def figure_page(picture: bytes, text: str) -> str:
    """One self-contained page of a PNG, no larger than the window; a click shows it in full size.

    `text` is what a reader without the picture is told.
    """
    source = base64.b64encode(picture).decode()
    text = html.escape(text)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{text}</title><style>{FIGURE_SHEET}</style>"
        f'<img alt="{text}" src="data:image/png;base64,{source}" '
        'onclick="this.classList.toggle(&quot;whole&quot;)"></html>\n'
    )

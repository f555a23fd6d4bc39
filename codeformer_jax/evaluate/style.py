"""The report's style sheet and script, put into the page as they are."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fff; --card: #f6f7f9; --ink: #1b1f24; --quiet: #5d6673; --rule: #d9dde3;
  --bar: #4a7fc1; --gain: #2f855a; --loss: #c0392b; --steps: #d9822b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181c; --card: #1e2227; --ink: #e6e9ed; --quiet: #9aa4b1; --rule: #353b43;
    --bar: #6ea0dd; --gain: #58b788; --loss: #ee7567; --steps: #f0a653;
  }
}
* { box-sizing: border-box; }
body {
  max-width: 1160px; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 {
  font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--rule);
}
h3 { font-size: .95rem; margin: 0 0 .6rem; overflow-wrap: anywhere; }
h3 small { font-weight: 400; color: var(--quiet); margin-left: .5rem; }
header p { font-size: 1.05rem; max-width: 75ch; margin: 0; }
code { overflow-wrap: anywhere; }
a { color: inherit; text-underline-offset: 2px; }
.note, figcaption { color: var(--quiet); font-size: .85rem; }
.note { margin: .3rem 0 .8rem; max-width: 80ch; }
.tables { display: flex; flex-wrap: wrap; gap: 1.5rem 3rem; }
.tables > div { max-width: 100%; overflow-x: auto; }
.tables > div:first-child { flex-basis: 100%; }
.tables .note { max-width: 26rem; }
table { border-collapse: collapse; }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; white-space: nowrap; }
th:first-child { text-align: left; padding-right: 1.5rem; }
thead th {
  color: var(--quiet); font-weight: 500; font-size: .85rem; border-bottom: 1px solid var(--rule);
}
tbody th { font-weight: 500; }
tbody tr + tr > * { border-top: 1px solid color-mix(in srgb, var(--rule) 55%, transparent); }
.reference > * { color: var(--quiet); }
.better, .worse { font-size: .85em; }
.better { color: var(--gain); }
.worse { color: var(--loss); }
td .better, td .worse { display: inline-block; min-width: 4.2em; }
.charts {
  display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr));
}
figure { margin: 0; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--quiet); font-size: 11px; }
svg .grid { stroke: var(--rule); stroke-width: .6; }
svg .axis { stroke: var(--quiet); }
svg .even { stroke: var(--quiet); stroke-dasharray: 4 3; }
svg .bar { fill: var(--bar); }
svg .gain { fill: var(--gain); }
svg .loss { fill: var(--loss); }
svg .steps { fill: none; stroke: var(--steps); stroke-width: 1.2; }
article { background: var(--card); border-radius: 8px; padding: .8rem 1rem; margin: 0 0 .8rem; }
article:target { outline: 2px solid var(--bar); }
.row {
  display: grid; gap: .8rem; grid-auto-flow: column; overflow-x: auto;
  grid-auto-columns: minmax(90px, 200px);
}
.row img { width: 100%; display: block; border-radius: 4px; image-rendering: pixelated; }
.row figcaption { margin-top: .3rem; line-height: 1.35; }
.row b { color: var(--ink); font-weight: 600; }
.wide { overflow: auto; max-height: 40rem; font-size: .88rem; }
.sortable thead th {
  position: sticky; top: 0; background: var(--paper); white-space: normal; vertical-align: bottom;
}
.sortable th:not(:first-child) button { min-width: 4.5rem; }
.sortable button {
  font: inherit; color: inherit; background: none; border: 0; padding: 0; text-align: inherit;
  cursor: pointer;
}
.sortable [aria-sort] { color: var(--ink); }
.sortable [aria-sort=ascending] button::after { content: " ▲"; }
.sortable [aria-sort=descending] button::after { content: " ▼"; }
pre {
  background: var(--card); border-radius: 8px; padding: 1rem; overflow-x: auto; font-size: .8rem;
}
@media print { article { break-inside: avoid; } .wide { max-height: none; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(h => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const text = row => row.cells[column].textContent;
    const compare = (a, b) => column ? parseFloat(text(a)) - parseFloat(text(b))
      : text(a).localeCompare(text(b), undefined, {numeric: true});
    body.append(...[...body.rows].sort((a, b) => up ? compare(a, b) : compare(b, a)));
  }));
}
"""

"""The report's style sheet; light or dark as the reader's system is."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --panel: #f6f7f9; --ink: #1b1f24; --soft: #68707b; --line: #dde1e6; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14171b; --panel: #1c2026; --ink: #e8eaed; --soft: #9aa3ad; --line: #323841; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 16px; }
h2 { font-size: 19px; margin: 44px 0 12px; }
h3 { font-size: 15px; margin: 0 0 8px; }
small { color: var(--soft); font-weight: normal; }
dl { display: flex; flex-wrap: wrap; gap: 8px 32px; margin: 0; }
dt { color: var(--soft); font-size: 12px; }
dd { margin: 0; overflow-wrap: anywhere; }
.note { color: var(--soft); font-size: 13px; max-width: 84ch; margin: 8px 0; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px; text-align: right; vertical-align: top; white-space: nowrap; }
thead th { background: var(--panel); font-size: 12px; color: var(--soft); font-weight: 600; }
thead th:first-child, th[scope=rowgroup] { text-align: left; white-space: normal; min-width: 150px; }
tbody th[scope=row] { font-weight: normal; color: var(--soft); }
tr.first > * { border-top: 1px solid var(--line); }
td small { display: block; font-size: 11px; }
td.best { font-weight: 650; }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: 12px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 560px), 1fr)); gap: 20px; }
.plot svg { max-width: 100%; height: auto; display: block; }
.plot > figcaption { margin: 4px 0 8px; color: var(--ink); font-weight: 600; font-size: 13px; }
.tall { max-height: 460px; overflow-y: auto; }
article { background: var(--panel); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
article + article { margin-top: 12px; }
.row { display: flex; flex-wrap: wrap; gap: 12px; align-items: center; }
.row img { display: block; max-width: 100%; height: auto; border-radius: 6px; }
.row figcaption { margin-top: 4px; }
.arrow { color: var(--soft); font-size: 22px; padding-bottom: 18px; }
.iou { font-variant-numeric: tabular-nums; background: var(--ink); color: var(--ground); border-radius: 5px;
  padding: 1px 7px; margin-right: 6px; }
@media print { .tall { max-height: none; } article { break-inside: avoid; } }
"""

"""The style sheets of the HTML report and of what a notebook shows. They fetch nothing from anywhere."""

from __future__ import annotations

from collections.abc import Mapping

# Each colour by its purpose. Words have a contrast of at least 4.5 to what is behind them, lines and dots of
# at least 3 (WCAG 2.2, AA); a test computes it. `s0` to `s5` are the lines of the short trainings.
LIGHT = {
    "page": "#f6f6f3",
    "card": "#ffffff",
    "ink": "#1b1e23",
    "soft": "#5a616b",
    "rule": "#e2e3e0",
    "accent": "#0a6b4d",
    "tint": "#e9f4ef",
    "warn": "#7d4e00",
    "warn-tint": "#fdf4e1",
    "bad": "#b3261e",
    "code": "#f4f4f1",
    "line": "#5f8f80",
    "s0": "#0a6b4d",
    "s1": "#2f6db5",
    "s2": "#a8571b",
    "s3": "#7b4fa3",
    "s4": "#a33a5f",
    "s5": "#5a616b",
}
DARK = {
    "page": "#121417",
    "card": "#1a1d22",
    "ink": "#e7e9ec",
    "soft": "#a1a9b5",
    "rule": "#2e333b",
    "accent": "#62d2a8",
    "tint": "#17302a",
    "warn": "#f0c674",
    "warn-tint": "#2f2714",
    "bad": "#ff8f85",
    "code": "#14171b",
    "line": "#5b9c87",
    "s0": "#62d2a8",
    "s1": "#7fb4f5",
    "s2": "#e8a26b",
    "s3": "#c3a1ea",
    "s4": "#f08fb0",
    "s5": "#a1a9b5",
}

CHART = """
.chart { display: block; width: 100%; height: auto; overflow: visible; font: 11px var(--sans);
  font-variant-numeric: tabular-nums; color: var(--ink) }
.chart text { stroke: none; fill: var(--soft) }
.chart .grid { stroke: var(--rule) }
.chart .axis { stroke: var(--soft); stroke-width: 1 }
.chart .line { stroke: var(--line); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round }
.chart .interval { stroke: var(--line); stroke-width: 5; stroke-linecap: round; opacity: .42 }
.chart .dot { fill: var(--line); stroke: var(--card); stroke-width: 1.5 }
.chart .chosen { fill: var(--accent); stroke: var(--card); stroke-width: 2 }
.chart .current { fill: var(--card); stroke: var(--accent); stroke-width: 2.2 }
.chart .dot.hollow { fill: var(--card); stroke: var(--line); stroke-width: 1.8 }
.chart .chosen.hollow { fill: var(--card); stroke: var(--accent); stroke-width: 2.6 }
.chart .use, .chart .now, .chart .remark { paint-order: stroke; stroke: var(--card); stroke-width: 4;
  stroke-linejoin: round }
.chart .use { fill: var(--accent); font-weight: 650 }
.chart .now { fill: var(--ink) }
.chart .cross { stroke: var(--bad); stroke-width: 2; stroke-linecap: round }
.chart .rule { stroke: var(--soft); stroke-dasharray: 3 4 }
.chart .s0, .sample .s0 { stroke: var(--s0) }
.chart .s1, .sample .s1 { stroke: var(--s1); stroke-dasharray: 7 4 }
.chart .s2, .sample .s2 { stroke: var(--s2); stroke-dasharray: 2 4 }
.chart .s3, .sample .s3 { stroke: var(--s3); stroke-dasharray: 10 3 2 3 }
.chart .s4, .sample .s4 { stroke: var(--s4); stroke-dasharray: 14 4 }
.chart .s5, .sample .s5 { stroke: var(--s5); stroke-dasharray: 5 2 }
.chart .own, .sample .own { stroke-width: 3 }
.sample { stroke-width: 2; flex: none; stroke-linecap: round }
"""

_PAGE = """
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100% }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 var(--sans);
  overflow-wrap: anywhere }
body > * { max-width: 1040px; margin-inline: auto; padding-inline: 24px }
h1, h2, h3, p, dl, dd, ul, figure, pre, table { margin: 0; padding: 0 }
h1 { font-size: 1.75rem; line-height: 1.2; font-weight: 650; letter-spacing: -.015em; text-wrap: balance }
h2 { font-size: 1.15rem; line-height: 1.3; font-weight: 650; letter-spacing: -.005em }
h3 { font-size: .95rem; line-height: 1.35; font-weight: 650 }
p, li { text-wrap: pretty }
code, pre { font-family: var(--mono); font-size: .84rem }
pre code { font-size: inherit }
bdi { unicode-bidi: isolate }

.top { display: flex; flex-wrap: wrap; gap: 4px 24px; justify-content: space-between; padding-block: 22px 0;
  font-size: .875rem; color: var(--soft) }
.top b { color: var(--ink); font-weight: 650 }
.head { padding-block: 34px 24px }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(250px, 1fr)); gap: 14px 28px;
  margin-top: 22px; font-size: .9rem; line-height: 1.45 }
dt { color: var(--soft); font-size: .8rem; line-height: 1.5 }

main { display: grid; gap: 20px; grid-template-columns: minmax(0, 1fr) }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 14px; padding: 28px 30px 30px;
  min-width: 0 }
.card > h2 { margin-bottom: 18px }
.hero { border-color: var(--accent); padding-block: 30px 30px }
.hero > h2 { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }
.answer { display: grid; grid-template-columns: 1.25fr 1fr 1fr; gap: 20px 36px; align-items: end }
.answer dt { font-size: .875rem }
.answer .figure { font-size: 2.5rem; line-height: 1.15; font-weight: 600; letter-spacing: -.025em;
  font-variant-numeric: tabular-nums }
.answer .first .figure { font-size: 5.25rem; line-height: 1; color: var(--accent); font-weight: 680;
  letter-spacing: -.04em }
.answer .quiet { color: var(--soft); font-weight: 450 }
.answer .remark { font-size: .85rem; line-height: 1.4; color: var(--soft); min-height: 2.8em;
  margin-top: 4px }
.why { margin-top: 16px; max-width: 74ch }
.why::first-letter { text-transform: uppercase }
.why + .why { margin-top: 8px }
.said { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 10px 22px; max-width: 84ch }
.said dt { font-size: .875rem; line-height: 1.7 }
.doubts { margin-top: 20px; padding: 14px 18px 15px; border-radius: 10px; background: var(--warn-tint);
  font-size: .92rem; line-height: 1.5 }
.doubts h3 { color: var(--warn) }
.doubts ul { margin-top: 4px; padding-left: 18px; max-width: 80ch }
.doubts li + li { margin-top: 4px }

.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr));
  gap: 34px 44px }
.charts figure { min-width: 0; max-width: 560px }
figcaption { margin-bottom: 12px }
figcaption p { color: var(--soft); font-size: .85rem; line-height: 1.45; margin-top: 2px; min-height: 2.9em }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 3px 18px; margin-top: 8px; font-size: .82rem;
  color: var(--soft) }
.legend li { display: flex; align-items: center; gap: 7px }

.scroll { overflow-x: auto; margin-inline: -30px; padding-inline: 30px }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px }
table { border-collapse: collapse; width: 100%; font-size: .9rem; line-height: 1.4;
  font-variant-numeric: tabular-nums }
caption { text-align: left; color: var(--soft); font-size: .85rem; padding-bottom: 10px }
th, td { padding: 7px 0 7px 20px; text-align: right; white-space: nowrap; vertical-align: baseline;
  border-bottom: 1px solid var(--rule) }
th:first-child { padding-left: 8px }
thead th { color: var(--soft); font-weight: 500; font-size: .8rem }
thead tr > * { border-bottom-color: var(--soft) }
tbody th { font-weight: 600 }
tbody tr:last-child > * { border-bottom: 0 }
td.bar { width: 26%; min-width: 84px; padding-right: 8px }
td.bar i { display: block; height: 9px; border-radius: 2px 5px 5px 2px; background: var(--line);
  width: var(--share) }
td.mark { text-align: left; width: 1%; font-size: .82rem; padding-right: 8px }
td.told { text-align: left; white-space: normal; overflow-wrap: anywhere }
.failed td.told { color: var(--bad) }
.memory td.told, .vetoed td.told { color: var(--warn) }
.folded > * { color: var(--soft); font-weight: 400 }
tr.use > * { color: var(--accent); font-weight: 650; background: var(--tint) }
tr.use td.bar i { background: var(--accent) }
* + .said, .scroll + *, * + .scroll { margin-top: 26px }

.snippets { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr));
  gap: 24px 28px }
.snippets > div { min-width: 0 }
.snippets h3 { margin-bottom: 7px }
pre { background: var(--code); border: 1px solid var(--rule); border-radius: 9px; padding: 13px 15px;
  line-height: 1.55; overflow-x: auto; white-space: pre; tab-size: 4; overflow-wrap: normal }
.raw pre { max-height: 480px; overflow: auto; margin-top: 16px; font-size: .78rem }
summary { cursor: pointer; font-weight: 650; font-size: 1.15rem; line-height: 1.3 }
summary span { color: var(--soft); font-weight: 400; font-size: .9rem; margin-left: 8px }
footer { padding-block: 22px 44px; color: var(--soft); font-size: .85rem }

@media (max-width: 640px) {
  body { font-size: 15.5px }
  body > * { padding-inline: 16px }
  h1 { font-size: 1.45rem }
  .head { padding-block: 24px 20px }
  .facts { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 12px 18px }
  main { gap: 14px }
  .card { padding: 22px 16px 24px; border-radius: 12px }
  .answer { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 18px 20px }
  .answer .first { grid-column: 1 / -1 }
  .answer { align-items: start }
  .chart { font-size: 13px }
  .answer .figure { font-size: 2rem }
  .answer .first .figure { font-size: 4.25rem }
  .answer .remark, figcaption p { min-height: 0 }
  .said { grid-template-columns: minmax(0, 1fr); gap: 0 }
  .said dd + dt { margin-top: 12px }
  .scroll { margin-inline: -16px; padding-inline: 16px }
  table { font-size: .82rem }
  th, td { padding-left: 10px }
  th:first-child { padding-left: 3px }
  td.mark { padding-left: 7px; padding-right: 3px }
  pre { font-size: .76rem }
  pre { padding: 12px }
  .rare, td.bar { display: none }
}
@media print {
  @page { margin: 14mm }
  body { background: none; font-size: 10pt }
  body > * { max-width: none; padding-inline: 0 }
  .card { border: 0; border-top: 1px solid var(--rule); border-radius: 0; padding: 16px 0 }
  .head { padding-block: 14px 16px }
  .answer .first .figure { font-size: 3.6rem }
  .charts { grid-template-columns: 1fr 1fr; gap: 20px 28px }
  .snippets { grid-template-columns: 1fr 1fr; gap: 14px 18px }
  figure, tr, .doubts, .snippets > div { break-inside: avoid }
  h2, h3, caption { break-after: avoid }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 7.2pt; padding: 8px 10px }
  .scroll { overflow: visible; margin-inline: 0; padding-inline: 0 }
  .raw { display: none }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}
"""

_FONTS = {
    "sans": 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif',
    "mono": 'ui-monospace, "SF Mono", "Cascadia Code", Menlo, Consolas, "DejaVu Sans Mono", monospace',
}


def _variables(colours: Mapping[str, str]) -> str:
    return "; ".join(f"--{name}: {value}" for name, value in colours.items())


def page() -> str:
    """The style sheet of the report."""
    return "\n".join(
        (
            f":root {{ color-scheme: light dark; {_variables(LIGHT)}; {_variables(_FONTS)} }}",
            # On a screen only: paper is light.
            f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}",
            CHART.strip(),
            _PAGE.strip(),
        )
    )


# Every selector begins with the fragment's own class, and colours are the notebook's own: its theme isn't
# the system's.
NOTEBOOK = """
.autobatch-answer { max-width: 640px; line-height: 1.5; overflow-wrap: anywhere }
.autobatch-answer p { margin: 6px 0 }
.autobatch-answer .autobatch-use { font-size: 1.5em; font-weight: 600; margin-bottom: 2px }
.autobatch-answer .autobatch-soft { opacity: .75 }
.autobatch-answer table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 8px 0 }
.autobatch-answer th, .autobatch-answer td { text-align: right; padding: 3px 0 3px 16px; white-space: nowrap }
.autobatch-answer td.told, .autobatch-answer td.mark { text-align: left; white-space: normal }
.autobatch-answer tr.use > * { font-weight: 600 }
.autobatch-answer td.bar { min-width: 90px }
.autobatch-answer td.bar i { display: block; height: 8px; background: currentColor; opacity: .45;
  width: var(--share) }
"""

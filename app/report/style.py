"""How a report looks: the type and the colours of the app, light and dark, on paper and on a phone."""

from app.figures.base import DARK, LIGHT
from app.figures.svg.chart import GRID
from app.figures.svg.words import FONT

SERIF = "'Source Serif 4', 'Source Serif Pro', Charter, Georgia, 'Noto Serif', serif"
"""The family of the app's headings where it is installed. To carry it along would double the file."""
MONO = "'Source Code Pro', ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
_LIGHT = f"""
  --paper: #FFFFFF; --panel: #F4F5F2; --line: #DADDD7; --link: #1F5C99; --primary: #23466F;
  --ink: {LIGHT.ink}; --label: {LIGHT.label}; --measured: {LIGHT.measured}; --dense: {LIGHT.dense};
  --grid: {GRID};
  --constant-words: #00629B; --dynamic-words: #A84300; --manual-words: #00704F; --highlight-words: #8F4A74;
"""
_DARK = f"""
  --paper: #060709; --panel: #171B21; --line: #2F3640; --link: #8AB8EC; --primary: #8AB8EC;
  --ink: {DARK.ink}; --label: {DARK.label}; --measured: {DARK.measured}; --dense: {DARK.dense};
  --grid: #252B33;
  --constant-words: #6CB6E8; --dynamic-words: #F39A5B; --manual-words: #4CC79F; --highlight-words: #E0A3C5;
"""
STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 {FONT}; }}
main {{ max-width: 62rem; margin: 0 auto; padding: 1.2rem 1.25rem 4rem; }}
h1, h2, h3 {{ font-family: {SERIF}; font-weight: 600; line-height: 1.2; text-wrap: balance; }}
h1 {{ font-size: 2.1rem; margin: 0 0 .3rem; }}
h2 {{ font-size: 1.45rem; margin: 2.6rem 0 .6rem; }}
h3 {{ font-size: 1.05rem; margin: 0 0 .3rem; }}
p {{ margin: .45rem 0; overflow-wrap: anywhere; }}
a {{ color: var(--link); }}
.brand {{ margin: 0 0 .6rem; font: 600 1.05rem {SERIF}; color: var(--primary); }}
.quiet, figcaption {{ color: var(--label); font-size: .92rem; }}
.verdict {{ font: 600 1.45rem/1.3 {SERIF}; margin: 1rem 0 .3rem; text-wrap: pretty; }}
.second {{ font: 600 1.08rem/1.4 {SERIF}; margin: .3rem 0; text-wrap: pretty; }}
.note {{ border-left: 4px solid #CC79A7; padding-left: .8rem; }}
.cards {{ display: grid; gap: .7rem; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr));
  margin: .9rem 0; }}
.cards > div, .texts > div {{ border: 1px solid var(--line); border-radius: .4rem; padding: .55rem .8rem; }}
.cards p {{ margin: 0; }}
.label {{ color: var(--label); font-size: .9rem; }}
.value {{ font-size: 1.6rem; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums; }}
.long {{ font-size: 1.15rem; }}
.change {{ font-size: .92rem; font-weight: 600; }}
.beside {{ display: grid; gap: 1rem 2rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }}
dl {{ margin: 0; }}
dt {{ font-weight: 600; font-size: .92rem; }}
dd {{ margin: 0 0 .5rem; font-size: .92rem; overflow-wrap: anywhere; }}
nav ol {{ columns: 17rem; column-gap: 2rem; padding-left: 1.4rem; margin: 1.4rem 0 0; font-size: .92rem; }}
figure {{ margin: 0; }}
svg {{ display: block; width: 100%; height: auto; }}
.small svg {{ max-width: 27rem; }}
.narrow {{ display: none; }}
pre {{ background: var(--panel); padding: .8rem; border-radius: .4rem; white-space: pre-wrap;
  overflow-wrap: anywhere; font: .85rem/1.5 {MONO}; }}
.frame {{ overflow-x: auto; max-height: 34rem; border: 1px solid var(--line); border-radius: .4rem; }}
.frame:focus-visible, a:focus-visible, summary:focus-visible {{ outline: 3px solid var(--link);
  outline-offset: 2px; }}
table {{ border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; min-width: 100%; }}
th, td {{ padding: .3rem .65rem; text-align: left; border-bottom: 1px solid var(--line);
  white-space: nowrap; }}
thead th {{ position: sticky; top: 0; background: var(--panel); }}
tbody tr:last-child td {{ border-bottom: 0; }}
details {{ margin: .6rem 0; }}
summary {{ cursor: pointer; color: var(--link); }}
.texts {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); }}
.texts p {{ margin: 0; white-space: pre-wrap; }}
@media (max-width: 40rem) {{
  body {{ font-size: 15px; }}
  main {{ padding: .9rem .8rem 3rem; }}
  h1 {{ font-size: 1.6rem; }}
  .verdict {{ font-size: 1.25rem; }}
  .cards {{ grid-template-columns: repeat(auto-fit, minmax(8.6rem, 1fr)); gap: .5rem; }}
  .value {{ font-size: 1.35rem; }}
  .wide {{ display: none; }}
  .narrow {{ display: block; }}
}}
@page {{ margin: 14mm; }}
@media print {{
  :root {{ color-scheme: light; {_LIGHT} }}
  body {{ font-size: 10.5pt; }}
  main {{ max-width: none; padding: 0; }}
  nav, details:not([open]) {{ display: none; }}
  .wide {{ display: block; }}
  .narrow {{ display: none; }}
  .frame {{ overflow: visible; max-height: none; border: 0; }}
  th, td {{ white-space: normal; padding: .15rem .4rem; font-size: 8pt; }}
  thead th {{ position: static; }}
  h2 {{ break-after: avoid; }}
  figure, tr, .cards > div, .texts > div {{ break-inside: avoid; }}
}}
"""

"""The frame of a page that stands alone: its head and its looks, by daylight and in the dark."""

from html import escape


def page(title: str, body: str) -> str:
    """Returns a whole HTML document."""
    return _PAGE.format(title=escape(title), style=_STYLE, body=body)


_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
_STYLE = """\
:root { color-scheme: light dark; --ink: #1d1f23; --page: #fff; --soft: #5d636d; --rule: #d9dce1; --shade: #f5f6f8;
  --alarm: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6ea; --page: #16181c; --soft: #9aa1ac; --rule: #363a42; --shade: #1f2227; --alarm: #ff8a80; }
}
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 2rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; font-weight: 600; }
p { max-width: 52rem; margin: .5rem 0; }
pre { background: var(--shade); padding: .6rem .8rem; overflow-x: auto; font-size: .85rem; }
.note { color: var(--soft); font-size: .87rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { vertical-align: bottom; color: var(--soft); font-weight: 600; white-space: normal; min-width: 4.5rem; }
th.words, td.words { text-align: left; white-space: normal; }
th:first-child, td:first-child { padding-left: 0; white-space: nowrap; }
.caution, .missing h2, .missing td:nth-child(2) { color: var(--alarm); }
.swatch { margin-right: .5rem; vertical-align: middle; }
.legend { list-style: none; padding: 0; margin: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.5rem; }
.curves { width: 100%; height: auto; color: var(--ink); }
"""

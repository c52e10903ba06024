"""A table of text, as Markdown and as HTML."""

import dataclasses
from collections.abc import Sequence
from html import escape


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells below titles; columns of words stand to the left, those of numbers to the right."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_words: int = 1
    """The first so many columns are words."""
    marks: Sequence[str] = ()
    """HTML before the first cell of each row, or none."""

    def markdown(self) -> str:
        """Returns the table as Markdown."""
        rule = [":---" if self._is_words(column) else "---:" for column in range(len(self.titles))]
        lines = [self.titles, rule, *([cell.replace("|", "\\|") for cell in row] for row in self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def html(self) -> str:
        """Returns the table as HTML."""
        head = "".join(self._cell("th", column, escape(title)) for column, title in enumerate(self.titles))
        body = []
        for number, row in enumerate(self.rows):
            mark = self.marks[number] if self.marks else ""
            cells = [self._cell("td", 0, mark + escape(row[0]))]
            cells += [self._cell("td", column, escape(cell)) for column, cell in enumerate(row[1:], 1)]
            body.append(f"<tr>{''.join(cells)}</tr>")
        rows = "\n".join(body)
        return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>'

    def _is_words(self, column: int) -> bool:
        return column < self.num_words

    def _cell(self, tag: str, column: int, content: str) -> str:
        kind = ' class="words"' if self._is_words(column) else ""
        return f"<{tag}{kind}>{content}</{tag}>"

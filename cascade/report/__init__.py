"""Static, self-contained HTML pages with tables, charts and videos; used by every report."""

from cascade.report.page import Page
from cascade.report.sections import Cell, Film

__all__ = ["Cell", "Film", "Page"]

"""The one maker of pages: static, self-contained HTML with tables, charts and videos."""

from cascade.report.page import Page
from cascade.report.sections import Cell, Film

__all__ = ["Cell", "Film", "Page"]

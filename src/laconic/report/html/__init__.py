"""A trace's page: one self-contained HTML file. Pure: data in, bytes out."""

from laconic.report.html.data import as_json
from laconic.report.html.document import as_html

__all__ = ["as_html", "as_json"]

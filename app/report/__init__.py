"""A run as one HTML file, and its figures as SVG: what is shown, what it begins with, how it looks.

Needs no network and no script, prints, and takes nothing from a run but as text. Knows nothing about
streamlit.
"""

from app.report.page import build_page, build_report, figures
from app.report.shown import Section, every_section, sections
from app.report.summary import Summary, summary

__all__ = [
    "Section",
    "Summary",
    "build_page",
    "build_report",
    "every_section",
    "figures",
    "sections",
    "summary",
]

"""The report of a run as one self-contained HTML file: for the operator at night, for the auditor next year."""

from drctl.report.page import render_report

__all__ = ["render_report"]

"""Figures as SVG, drawn by ourselves: no browser, no script, no network."""

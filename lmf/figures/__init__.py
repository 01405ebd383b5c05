"""Figures in one style: readable at the width of a column, safe for colour-blind readers, as PNG and PDF."""

"""Prices as dated data with their sources, and quotes made from them."""

"""The dashboard's router, started by `hybrid-video dashboard`. Pages hold layout, the package holds the facts."""

from dashboard_parts.frame import run

run()

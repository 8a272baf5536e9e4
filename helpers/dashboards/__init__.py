"""Draws the Grafana dashboards of manifests/monitoring with matplotlib, from Prometheus.

from helpers import dashboards

dashboards.settle(cluster)  # until Prometheus has scraped what was just sent
dashboards.draw("manifests/monitoring/dashboards/serving.json", cluster, minutes=5)
"""

from helpers.dashboards.drawing import draw
from helpers.dashboards.settling import settle
from helpers.dashboards.window import window

__all__ = ["draw", "settle", "window"]

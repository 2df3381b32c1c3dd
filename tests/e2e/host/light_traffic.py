"""Traffic that leaves most of the machine to what is under test."""

from cluster.traffic.clients import Mix

LIGHT = Mix(
    new_rate=40,
    keepalive_rate=30,
    slow_rate=1,
    slow_ms=500,
    stream_rate=1,
    stream_ms=800,
    websocket_rate=1,
    websocket_s=0.8,
    visitors=5,
    visit_every_s=0.2,
    visit_min_s=0.5,
    visit_max_s=1.0,
)

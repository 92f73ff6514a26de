"""What a worker tells about itself: metrics on a Prometheus endpoint and structured logs without secrets."""

"""Elasticsearch and OpenSearch over their REST API, as far as snapshots need it: see ``recovery.ports.search``.

Both products answer the same requests, so one adapter speaks to both; where they differ, ``connection`` knows the
product from ``GET /``. Why none of the products' clients: ``docs/adr/0013-search-over-http.md``.
"""

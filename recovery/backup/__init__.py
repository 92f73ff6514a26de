"""The streaming backup pipeline, its objects, manifests and catalogue."""

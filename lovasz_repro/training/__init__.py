"""Lightning modules, metrics, and one resumable training."""

"""DeepLab networks and their published weights."""

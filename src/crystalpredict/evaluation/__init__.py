"""Predictions against labels: metrics, reports, pictures."""

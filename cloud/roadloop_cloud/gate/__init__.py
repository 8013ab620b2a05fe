"""The gate: whether a candidate may replace the incumbent, on rows neither was trained on, and why not."""

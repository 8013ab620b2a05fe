"""Retraining: from what the fleet sent to a candidate that is better than what it runs, or to a reason why not."""

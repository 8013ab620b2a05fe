"""Campaigns in the cloud: tried on what was recorded, pushed to vehicles, and what came of them."""

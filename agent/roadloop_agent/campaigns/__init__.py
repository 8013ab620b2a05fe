"""Campaigns on the vehicle: link keeps what the cloud wants, drive's keeper watches the slots for it."""

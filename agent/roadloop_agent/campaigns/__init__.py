"""Campaigns on the vehicle: link keeps what the cloud wants, drive's keeper watches the slots and sends what it takes."""

"""What the vehicle and the cloud agree on: contract, bundles, preprocessing, tasks and runners."""

__version__ = "0.1.0"

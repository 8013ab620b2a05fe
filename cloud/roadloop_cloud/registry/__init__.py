"""Models and releases: registered bundles, and the signed repository that vehicles take them from."""

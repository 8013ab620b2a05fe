"""Training sets from what the fleet sent: immutable snapshots, named by the hash of their content."""

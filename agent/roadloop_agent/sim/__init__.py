"""Digital twins: many light vehicles over the real contract and the real update machine."""

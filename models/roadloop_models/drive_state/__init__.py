"""Drive state from OBD signals: the window that the model sees, and what its answers say."""

"""Model cards as pages with pictures, made from what a workspace knows of a version."""

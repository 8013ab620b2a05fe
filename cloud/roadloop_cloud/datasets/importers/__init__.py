"""Public data sets as their authors lay them out -> a data folder that `models train` and `evaluate` read."""

from roadloop_cloud.datasets.importers.layouts import LAYOUTS, Imported, import_layout

__all__ = ["LAYOUTS", "Imported", "import_layout"]

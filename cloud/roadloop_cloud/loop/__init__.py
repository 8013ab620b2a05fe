"""The loop by itself: when the next generation of a task's model is due, what was decided about it and why."""

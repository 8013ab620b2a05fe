"""What drift is seen by: signals of each decision, mergeable sketches of them, and a release's reference."""

"""Change that the fleet sees: sketches merged by cohort and compared with a release's reference, under a budget."""

"""The fleet service: what vehicles say about themselves, what they should run, and the files they ask for."""

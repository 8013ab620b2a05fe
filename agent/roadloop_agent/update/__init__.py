"""How a vehicle takes a new release: fetch, trust, test, install, try, keep or take back."""

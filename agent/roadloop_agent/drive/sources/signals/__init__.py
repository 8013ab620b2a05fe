"""Signals of the vehicle: feeds (CAN, GNSS, recorded tables) that are sampled together into `SignalFrame`s."""

"""Models: the protocol they implement, what ships with batchd, and the checks on what clients send them."""

//! How instances leave the swarm, whatever makes them, and whatever happens on the way.

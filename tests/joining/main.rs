//! How instances come into the swarm: founding, joining, and every answer that a join can get.

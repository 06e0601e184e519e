//! Trouble around a node: bad input, metadata and AWS that fail, secrets that must stay secret.

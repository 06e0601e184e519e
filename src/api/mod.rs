//! Serves everything that answers on a port or a socket: health checks, metrics, the page, the control socket.

pub mod control;
pub mod departures;
pub mod findings;
mod guard;
pub mod health;
pub mod ui;

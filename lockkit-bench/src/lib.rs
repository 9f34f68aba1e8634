//! Benches only: floors, the driver, and, as they come, the stores and their peers.

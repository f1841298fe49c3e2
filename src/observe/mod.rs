//! What pgq tells about itself without being asked.

pub mod log;

//! What the example programs share: threads that are busy in the ways of real programs, what the
//! kernel says about each, and what each can still do.

pub mod attempt;
pub mod progress;
pub mod raw;
pub mod status;
pub mod table;
pub mod workers;

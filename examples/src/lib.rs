//! What the example programs share: threads that work as those of real programs do (`workers`), what the kernel
//! reports about each (`status`, `table`), and what each may still do (`attempt`).

pub mod attempt;
pub mod progress;
pub mod status;
pub mod table;
pub mod workers;

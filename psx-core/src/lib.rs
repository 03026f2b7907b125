//! psx-core
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(target_os = "linux"))]
compile_error!("psx is about Linux threads: it builds for Linux only");

mod broadcast;
mod errno;
mod error;
mod process;
mod report;

pub use broadcast::{Broadcast, Coverage, Divergence};
pub use errno::Errno;
pub use error::Error;
pub use process::{Passage, Ticket, adopt, threads};
pub use report::{Divergent, NamedThread, Outcome, Report, Threads};

//! psx
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod thread;

pub use psx_core::{
    Broadcast, Coverage, Divergence, Divergent, Errno, Error, NamedThread, Outcome, Report,
    Threads, threads,
};

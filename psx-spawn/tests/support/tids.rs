//! The ids of a process's threads. Also part of the example programs.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::{fs, io};

/// The ids of the threads of the process `pid`, in their order; of those that end meanwhile some.
///
/// The kernel ends the list early, and says nothing, when the thread that it has come to ends
/// (`proc_task_readdir` in fs/proc/base.c). So the list is read until it is the same twice and as
/// long as the kernel's count, or often enough that no thread was left out each time.
///
/// # Errors
///
/// Where `/proc` cannot be read; also where there is no such process.
pub fn tids(pid: u32) -> io::Result<Vec<u32>> {
    const READS: usize = 100;
    let folder = format!("/proc/{pid}/task");
    let (mut all, mut last) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..READS {
        let mut tids = BTreeSet::new();
        for entry in fs::read_dir(&folder)? {
            tids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        all.extend(&tids);
        // The folder's link count is the number of threads and two.
        if tids == last && tids.len() as u64 + 2 == fs::metadata(&folder)?.nlink() {
            return Ok(Vec::from_iter(tids));
        }
        last = tids;
    }
    Ok(Vec::from_iter(all))
}

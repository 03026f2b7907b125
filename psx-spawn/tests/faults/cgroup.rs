//! A limit of the CPU time of one thread: a cgroup of version 1, where a cgroup may hold single threads.

use std::path::{Path, PathBuf};
use std::{fs, io, process};

const CONTROLLER: &str = "/sys/fs/cgroup/cpu";
const THREADS: &str = "tasks";

/// A cgroup with one thread; when dropped, the thread is moved out and the cgroup removed.
pub(crate) struct CpuLimit {
    cgroup: PathBuf,
    tid: u32,
}

impl CpuLimit {
    /// Allows the thread `tid` 5 ms in each 100 ms.
    pub(crate) fn of(tid: u32) -> io::Result<Self> {
        let limit = Self { cgroup: create(&format!("psx-faults-{tid}"))?, tid };
        fs::write(limit.cgroup.join("cpu.cfs_period_us"), "100000")?;
        fs::write(limit.cgroup.join("cpu.cfs_quota_us"), "5000")?;
        fs::write(limit.cgroup.join(THREADS), tid.to_string())?;
        Ok(limit)
    }
}

impl Drop for CpuLimit {
    fn drop(&mut self) {
        // It fails if the thread has ended.
        let _ = fs::write(Path::new(CONTROLLER).join(THREADS), self.tid.to_string());
        let _ = fs::remove_dir(&self.cgroup);
    }
}

fn create(name: &str) -> io::Result<PathBuf> {
    let cgroup = Path::new(CONTROLLER).join(name);
    fs::create_dir(&cgroup)?;
    Ok(cgroup)
}

/// Whether CPU time can be limited here.
pub(crate) fn has_cpu_limit() -> bool {
    create(&format!("psx-faults-try-{}", process::id())).is_ok_and(|cgroup| {
        let has_limit = cgroup.join("cpu.cfs_quota_us").exists();
        fs::remove_dir(cgroup).is_ok() && has_limit
    })
}

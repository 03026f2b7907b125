//! Landlock rulesets.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::raw::{must, owned, syscall};

/// `LANDLOCK_ACCESS_FS_READ_FILE`
pub const READ_FILE: u64 = 1 << 2;
/// `LANDLOCK_ACCESS_FS_READ_DIR`
pub const READ_DIR: u64 = 1 << 3;
/// `LANDLOCK_SCOPE_SIGNAL`
pub const SCOPE_SIGNAL: u64 = 1 << 1;

/// The kernel's Landlock version, 0 where it has none.
pub fn version() -> usize {
    const VERSION: usize = 1;
    // SAFETY: asks for a number.
    let version = unsafe { syscall(libc::SYS_landlock_create_ruleset, [0, 0, VERSION, 0, 0, 0]) };
    version.unwrap_or(0)
}

/// For `Case::needs`.
///
/// # Errors
///
/// Where there is no Landlock.
pub fn available() -> Result<(), String> {
    if version() >= 1 { Ok(()) } else { Err("needs Landlock: Linux 5.13".into()) }
}

/// A ruleset without a rule: all that it handles (files, network, scopes) is denied. A kernel that knows
/// less takes it as long as the rest is zero.
pub fn ruleset(handled: [u64; 3]) -> OwnedFd {
    let args = [handled.as_ptr().addr(), size_of_val(&handled), 0, 0, 0, 0];
    owned(must(libc::SYS_landlock_create_ruleset, args))
}

/// A ruleset that denies reading files and folders, except under `/usr` where that is asked for.
pub fn deny_reading(except_usr: bool) -> OwnedFd {
    #[repr(C, packed)]
    struct PathBeneath {
        allowed: u64,
        parent: i32,
    }
    let ruleset = ruleset([READ_FILE | READ_DIR, 0, 0]);
    if except_usr {
        let usr = File::open("/usr").expect("/usr");
        let rule = PathBeneath { allowed: READ_FILE | READ_DIR, parent: usr.as_raw_fd() };
        let (fd, rule) = (ruleset.as_raw_fd() as usize, (&raw const rule).addr());
        must(libc::SYS_landlock_add_rule, [fd, 1, rule, 0, 0, 0]);
    }
    ruleset
}

/// Puts the calling thread under a ruleset.
pub fn restrict(ruleset: &OwnedFd) {
    must(libc::SYS_landlock_restrict_self, [ruleset.as_raw_fd() as usize, 0, 0, 0, 0, 0]);
}

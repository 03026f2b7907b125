//! Directories for files that a test needs.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::{env, io, thread};

/// A new directory, removed with all that is in it when this is dropped. It is found again even where
/// the process has another root directory by then.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
    parent: File,
}

impl TempDir {
    /// Makes a directory whose name begins with `prefix`.
    pub fn new(prefix: &str) -> Self {
        let parent = env::temp_dir();
        let template = parent.join(format!("{prefix}-XXXXXX")).into_os_string().into_vec();
        let template = CString::new(template).expect("a path without NUL").into_raw();
        // SAFETY: a string of this function's, which the call writes to.
        let made = unsafe {
            let made = !libc::mkdtemp(template).is_null();
            made.then_some(CString::from_raw(template))
        };
        let path = made.unwrap_or_else(|| panic!("mkdtemp: {}", io::Error::last_os_error()));
        let path = PathBuf::from(OsStr::from_bytes(path.as_bytes()));
        Self { path, parent: File::open(parent).expect("the folder of temporary files") }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // Under another root there is no such path, and the parent's descriptor removes an empty folder.
        let _ = fs::remove_dir_all(&self.path);
        let name = self.path.file_name().expect("a name").as_bytes();
        let name = CString::new(name).expect("a name without NUL");
        // SAFETY: a descriptor and a name that outlive the call.
        let removed =
            unsafe { libc::unlinkat(self.parent.as_raw_fd(), name.as_ptr(), libc::AT_REMOVEDIR) };
        let error = io::Error::last_os_error();
        let is_gone = removed == 0 || error.kind() == io::ErrorKind::NotFound;
        assert!(is_gone || thread::panicking(), "{}: {error}", self.path.display());
    }
}

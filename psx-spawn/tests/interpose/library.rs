//! A C library, compiled by the test and loaded at run time: it knows nothing of psx.

use std::ffi::{CString, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::process::{self, Command, Stdio};
use std::{env, fs, io, mem};

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

static void *idle(void *none) { for (;;) pause(); }
static void *leave(void *none) { return none; }
static void *leave_deep(void *none) { pthread_exit(none); }
static int idle_raw(void *none) { for (;;) pause(); }

void start(void) {
    pthread_t thread;
    if (pthread_create(&thread, 0, idle, 0)) _exit(3);
}

__attribute__((constructor)) static void start_early(void) { start(); }

/* Ends a thread by return, by pthread_exit, by cancellation. */
int start_and_end(int how) {
    void *(*const body[])(void *) = { leave, leave_deep, idle };
    pthread_t thread;
    void *result = &thread;
    if (pthread_create(&thread, 0, body[how], 0)) return 1;
    if (how == 2 && pthread_cancel(thread)) return 2;
    if (pthread_join(thread, &result)) return 3;
    return result != (how == 2 ? PTHREAD_CANCELED : 0);
}

void clone_raw(void) {
    static char stack[65536] __attribute__((aligned(16)));
    clone(idle_raw, stack + sizeof stack,
          CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, 0);
}
"#;

/// For `Case::needs`.
pub(crate) fn compiler() -> Result<(), String> {
    let asked = Command::new("cc").arg("--version").stdout(Stdio::null()).status();
    match asked {
        Ok(status) if status.success() => Ok(()),
        _ => Err("needs a C compiler, `cc`".into()),
    }
}

/// The loaded library. It stays loaded.
pub(crate) struct Library(*mut c_void);

impl Library {
    /// Compiles and loads it.
    pub(crate) fn load() -> Self {
        let stem = env::temp_dir().join(format!("psx-interpose-{}", process::id()));
        let (source, object) = (stem.with_extension("c"), stem.with_extension("so"));
        fs::write(&source, SOURCE).unwrap();
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-w", "-pthread", "-o"]).args([&object, &source]);
        assert!(compile.status().unwrap().success());
        let path = CString::new(object.as_os_str().as_bytes()).unwrap();
        // SAFETY: a path; the library's constructor starts a thread, and does no more.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!library.is_null());
        let removed: io::Result<()> = [source, object].iter().try_for_each(fs::remove_file);
        removed.unwrap();
        Self(library)
    }

    pub(crate) fn start(&self) {
        // SAFETY: a function of this type in the C source; so in the next two.
        unsafe { mem::transmute::<*mut c_void, extern "C" fn()>(self.find("start"))() }
    }

    pub(crate) fn clone_raw(&self) {
        // SAFETY: as above.
        unsafe { mem::transmute::<*mut c_void, extern "C" fn()>(self.find("clone_raw"))() }
    }

    pub(crate) fn start_and_end(&self, how: c_int) -> c_int {
        let found = self.find("start_and_end");
        // SAFETY: as above.
        unsafe { mem::transmute::<*mut c_void, extern "C" fn(c_int) -> c_int>(found)(how) }
    }

    fn find(&self, name: &str) -> *mut c_void {
        let name = CString::new(name).unwrap();
        // SAFETY: a library that is loaded, and a C string.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!found.is_null());
        found
    }
}

//! A C library without psx, compiled by the test and loaded at run time.

use std::ffi::{CString, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::{fs, mem};

use psx_test_support::TempDir;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <aio.h>
#include <fcntl.h>
#include <mqueue.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

static void *idle(void *none) { for (;;) pause(); }
static void *leave(void *none) { return none; }
static void *leave_deep(void *none) { pthread_exit(none); }
static int idle_c11(void *none) { for (;;) pause(); }
static int leave_c11(void *none) { return -4711; }
static int leave_deep_c11(void *none) { thrd_exit(-4711); }
static void notified(union sigval none) { }

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

void start_c11(void) {
    thrd_t thread;
    if (thrd_create(&thread, idle_c11, 0) != thrd_success) _exit(3);
}

/* Ends a thread by return, by thrd_exit. */
int start_and_end_c11(int how) {
    const thrd_start_t body[] = { leave_c11, leave_deep_c11 };
    thrd_t thread;
    int result = 0;
    if (thrd_create(&thread, body[how], 0) != thrd_success) return 1;
    if (thrd_join(thread, &result) != thrd_success) return 2;
    return result != -4711;
}

void clone_raw(void) {
    static char stack[65536] __attribute__((aligned(16)));
    clone(idle_c11, stack + sizeof stack,
          CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, 0);
}

static struct sigevent by_thread = { .sigev_notify = SIGEV_THREAD,
                                     .sigev_notify_function = notified };

void start_timer(void) {
    timer_t timer;
    if (timer_create(CLOCK_MONOTONIC, &by_thread, &timer)) _exit(3);
}

/* The helper reads from a pipe that stays empty. */
void start_aio(void) {
    static struct aiocb request;
    static char byte;
    int ends[2];
    if (pipe(ends)) _exit(3);
    request.aio_fildes = ends[0];
    request.aio_buf = &byte;
    request.aio_nbytes = 1;
    if (aio_read(&request)) _exit(3);
}

void start_mq(void) {
    char name[32];
    snprintf(name, sizeof name, "/psx-interpose-%d", getpid());
    mqd_t queue = mq_open(name, O_CREAT | O_EXCL | O_RDONLY, 0600, 0);
    if (queue < 0 || mq_unlink(name) || mq_notify(queue, &by_thread)) _exit(3);
}
"#;

/// A thread started by the C++ library.
const SOURCE_CXX: &str = r#"
#include <thread>
#include <unistd.h>

extern "C" void start() {
    std::thread([] { for (;;) pause(); }).detach();
}
"#;

/// For `Case::needs`.
pub(crate) fn compiler() -> Result<(), String> {
    answers("cc")
}

/// For `Case::needs`.
pub(crate) fn cxx_compiler() -> Result<(), String> {
    answers("c++")
}

fn answers(compiler: &str) -> Result<(), String> {
    if cfg!(target_feature = "crt-static") {
        return Err("a static program loads no library".into());
    }
    let asked = Command::new(compiler).arg("--version").stdout(Stdio::null()).status();
    match asked {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!("needs a compiler, `{compiler}`")),
    }
}

/// The loaded library. It stays loaded.
pub(crate) struct Library(*mut c_void);

impl Library {
    /// Compiles and loads it.
    pub(crate) fn load() -> Self {
        Self::build("cc", "c", SOURCE, libc::RTLD_NOW)
    }

    /// The same, with the symbols of the library and those that it is linked with before the
    /// program's.
    pub(crate) fn load_with_deepbind() -> Self {
        // glibc's <dlfcn.h>; musl has no such flag.
        const RTLD_DEEPBIND: c_int = 8;
        Self::build("cc", "c", SOURCE, libc::RTLD_NOW | RTLD_DEEPBIND)
    }

    pub(crate) fn load_cxx() -> Self {
        Self::build("c++", "cc", SOURCE_CXX, libc::RTLD_NOW)
    }

    fn build(compiler: &str, extension: &str, text: &str, flags: c_int) -> Self {
        let folder = TempDir::new("psx-interpose");
        let object = folder.path().join("library.so");
        let source = object.with_extension(extension);
        fs::write(&source, text).unwrap();
        let mut compile = Command::new(compiler);
        compile.args(["-shared", "-fPIC", "-w", "-pthread", "-o"]).args([&object, &source]);
        assert!(compile.arg("-lrt").status().unwrap().success());
        let path = CString::new(object.as_os_str().as_bytes()).unwrap();
        // SAFETY: a path; the library's constructor starts a thread, and does no more.
        let library = unsafe { libc::dlopen(path.as_ptr(), flags) };
        assert!(!library.is_null());
        Self(library)
    }

    /// Calls one of the functions that take nothing.
    pub(crate) fn call(&self, function: &str) {
        // SAFETY: a function of this type in the source.
        unsafe { mem::transmute::<*mut c_void, extern "C" fn()>(self.find(function))() }
    }

    /// Calls one of the functions that return 0 if a thread has ended as it should.
    pub(crate) fn call_with(&self, function: &str, how: c_int) -> c_int {
        let found = self.find(function);
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

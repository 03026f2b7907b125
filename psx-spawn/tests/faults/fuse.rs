//! A root directory that a thread of the process serves (FUSE): a path lookup waits for that thread, and so
//! indefinitely while it is stopped (P6, P10).

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use psx_test_support::raw::must;

use crate::context::Context;
use crate::raw;
use crate::row::Expected::{Clean, Ok};
use crate::row::Row;
use crate::row::Start;
use crate::supervisor::path;

pub(crate) const ROWS: &[Row] = &[
    Row::new(
        "fuse-root",
        "the root directory is served by a thread of the process",
        &[Ok],
        |context| {
            enter_own_root(context);
            let _probes = context.probes();
            context.change();
        },
    )
    .needs(has_fuse, FUSE)
    .start(Start::Root),
    Row::new(
        "fuse-root-foreign",
        "the same beside an unregistered thread",
        &[Clean("Uncovered", "1 thread that cannot be named: /proc is out of reach")],
        |context| {
            enter_own_root(context);
            let _probes = context.probes();
            raw::start_raw_thread();
            context.change_soon();
        },
    )
    .needs(has_fuse, FUSE)
    .start(Start::Root),
];

const FUSE: &str = "/dev/fuse";

fn has_fuse() -> bool {
    open().is_ok()
}

fn open() -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/fuse")
}

/// Makes a file system of one folder, `proc`, the root, with the kernel's `/proc` in that folder.
fn enter_own_root(context: &Context) {
    context.adopt();
    raw::unshare_mounts();
    let root = path("empty");
    let server = open().expect("what the row needs");
    let options = format!("fd={},rootmode=40755,user_id=0,group_id=0\0", server.as_raw_fd());
    let target = format!("{}\0", root.display());
    let kind = c"fuse".as_ptr().addr();
    let args = [kind, target.as_ptr().addr(), kind, 0, options.as_ptr().addr(), 0];
    must(libc::SYS_mount, args);
    let _ = context.spawn("server", move || serve(server));
    raw::mount(Path::new("proc"), &root.join("proc"), Some("proc"), 0);
    raw::change_root(&root);
    fs::metadata("/proc/self/status").expect("the kernel's /proc");
}

/// Answers requests without end. No answer may be cached, so that each lookup comes here.
fn serve(mut requests: File) {
    const LOOKUP: u32 = 1;
    const FORGET: u32 = 2;
    const GETATTR: u32 = 3;
    const INIT: u32 = 26;
    const BATCH_FORGET: u32 = 42;
    /// The root's number in the protocol.
    const ROOT: u64 = 1;
    const PROC: u64 = 2;
    let mut buffer = vec![0; 1 << 17];
    loop {
        let length = match requests.read(&mut buffer) {
            Result::Ok(length) => length,
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => continue,
            Err(error) => panic!("/dev/fuse: {error}"),
        };
        let request = &buffer[..length];
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().expect("4 bytes"));
        let long = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().expect("8 bytes"));
        let (opcode, unique, node) = (word(4), long(8), long(16));
        let answer = match opcode {
            FORGET | BATCH_FORGET => continue,
            // Version 7.31, no options, a page at a time.
            INIT => words(&[7, 31, 0, 0, 0, 4096, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
            LOOKUP if node == ROOT && &request[40..] == b"proc\0" => {
                let mut entry = longs(&[PROC, 0, 0, 0, 0]);
                entry.extend(attributes(PROC));
                entry
            }
            GETATTR => {
                let mut answer = longs(&[0, 0]);
                answer.extend(attributes(node));
                answer
            }
            LOOKUP => {
                reply(&mut requests, unique, -libc::ENOENT, &[]);
                continue;
            }
            _ => {
                reply(&mut requests, unique, -libc::ENOSYS, &[]);
                continue;
            }
        };
        reply(&mut requests, unique, 0, &answer);
    }
}

fn reply(requests: &mut File, unique: u64, error: i32, answer: &[u8]) {
    let mut bytes = words(&[16 + answer.len() as u32, error as u32]);
    bytes.extend(unique.to_ne_bytes());
    bytes.extend(answer);
    // The kernel no longer knows a request that was cancelled.
    let _ = requests.write(&bytes);
}

/// A `struct fuse_attr`: a folder that every user may enter.
fn attributes(node: u64) -> Vec<u8> {
    let mut bytes = longs(&[node, 0, 0, 0, 0, 0]);
    bytes.extend(words(&[0, 0, 0, libc::S_IFDIR | 0o755, 2, 0, 0, 0, 4096, 0]));
    bytes
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_ne_bytes()).collect()
}

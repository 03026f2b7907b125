//! How much of a thread's stack the handler needs, measured on an alternate signal stack filled with a
//! pattern; and a thread with less (P1).

use std::ffi::{c_int, c_void};
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::{mem, ptr, slice};

use psx::{CapabilitySet, CapabilitySets, Coverage, Divergence, Error, Privileges, thread};
use psx_test_support::process::{exit_thread, fork_and_wait};
use psx_test_support::seccomp::ALLOW;
use psx_test_support::threads::{idle, start_idlers, tid};
use psx_test_support::{Case, Ending, Line, root, signal};

use crate::kernel::{STRICT, broadcast_no_new_privs, broadcast_slack};

/// What the handler and psx's calls may need beyond the kernel's frame, without optimisation and with it,
/// as docs/signal-safety.md says.
const LIMIT: usize = if cfg!(debug_assertions) { 2048 } else { 1024 };

/// The same for the message about a dead caller.
const MESSAGE: usize = if cfg!(debug_assertions) { 3072 } else { 1536 };

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("stack::need_of_the_handler", need_of_the_handler),
        Case::new("stack::need_of_the_last_message", need_of_the_last_message),
        Case::new("stack::closure_of_the_granted_size", closure_of_the_granted_size),
        Case::new("stack::too_small_is_refused", too_small_is_refused).check(|child| {
            child.inspect("refused", |child| child.assert_all("NoNewPrivs", "0"));
            child.inspect("changed", |child| child.assert_all("NoNewPrivs", "1"));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
    ]
}

const SIZE: usize = 64 * 1024;
const UNTOUCHED: u8 = 0xa5;

/// An alternate signal stack of the thread that made it.
struct SignalStack(*mut u8);

// SAFETY: only the thread that has the stack uses it.
unsafe impl Send for SignalStack {}

impl SignalStack {
    fn new() -> Self {
        let stack = Self::shared();
        stack.fill();
        stack.narrow(SIZE, 0);
        stack
    }

    /// Memory for one that a forked child shares with its parent.
    fn shared() -> Self {
        let (access, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, which is never unmapped.
        let memory = unsafe { libc::mmap(ptr::null_mut(), SIZE, access, flags, -1, 0) };
        assert_ne!(memory, libc::MAP_FAILED);
        Self(memory.cast())
    }

    /// Reduces it to `size` bytes, at its upper end.
    fn narrow(&self, size: usize, flags: c_int) {
        let bottom = self.0.wrapping_add(SIZE - size);
        let new = libc::stack_t { ss_sp: bottom.cast(), ss_flags: flags, ss_size: size };
        // SAFETY: memory that is never freed, and that nothing else uses.
        assert_eq!(unsafe { libc::sigaltstack(&new, ptr::null_mut()) }, 0);
    }

    fn fill(&self) {
        // SAFETY: the stack's own thread is not on it.
        unsafe { ptr::write_bytes(self.0, UNTOUCHED, SIZE) };
    }

    /// How many bytes, from the top, have been used.
    fn used(&self) -> usize {
        // SAFETY: as above.
        let bytes = unsafe { slice::from_raw_parts(self.0, SIZE) };
        SIZE - bytes.iter().position(|&byte| byte != UNTOUCHED).expect("a used byte")
    }

    /// How many bytes the kernel's frame takes.
    fn frame(&self) -> usize {
        static LOWEST: AtomicUsize = AtomicUsize::new(0);
        extern "C" fn note(_: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
            // On x86_64 a return address lies below the context; elsewhere the information does.
            let lowest =
                if cfg!(target_arch = "x86_64") { context.addr() - 8 } else { info.addr() };
            LOWEST.store(lowest, Ordering::Relaxed);
        }
        signal::handle(libc::SIGUSR1, libc::SA_ONSTACK, note);
        // SAFETY: the handler stores one number.
        assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
        self.0.addr() + SIZE - LOWEST.load(Ordering::Relaxed)
    }
}

fn need_of_the_handler(_: &Line) {
    let (ask, asked) = mpsc::channel();
    let (answer, answers) = mpsc::channel();
    thread::spawn(move || {
        let stack = SignalStack::new();
        let frame = stack.frame();
        for () in asked {
            answer.send(stack.used() - frame).unwrap();
            stack.fill();
            answer.send(0).unwrap();
        }
    });
    let need = |what: &str| {
        ask.send(()).unwrap();
        let bytes: usize = answers.recv().unwrap();
        answers.recv().unwrap();
        println!("{what}: {bytes} bytes beyond the kernel's frame");
        assert!(what == "nothing" || bytes > 0, "{what}: the handler ran on another stack");
        let limit = if what == "Privileges" { LIMIT + GRANTED } else { LIMIT };
        assert!(bytes <= limit, "{what}: {bytes} bytes");
    };
    need("nothing");
    // Others to signal, to wait for, and to wait with.
    start_idlers(4);
    for _ in 0..200 {
        broadcast_slack(STRICT, 1).unwrap();
    }
    need("a system call");
    let lenient = STRICT.divergence(Divergence::Report);
    // SAFETY: the call only reads.
    let report = unsafe { lenient.syscall(libc::SYS_gettid, [0; 6]) }.unwrap();
    assert_eq!(report.divergent().len(), 5);
    need("a system call with another result");
    // SAFETY: nothing is done.
    unsafe { STRICT.run(|| Ok(0)) }.unwrap();
    need("a closure that may install a filter");
    // SAFETY: no id is to change.
    assert_eq!(unsafe { libc::setresuid(!0, !0, !0) }, 0);
    need("a signal 33 from the libc");
    let mut privileges = Privileges::new().no_new_privs().seccomp(&[ALLOW]);
    if root().is_ok() {
        let none = CapabilitySet::empty();
        privileges = privileges.bounding_set(none).groups(&[65532, 7]).gid(65533).uid(65534);
        privileges = privileges.capabilities(CapabilitySets::empty());
    }
    privileges.apply().unwrap();
    need("Privileges");
}

/// A target that finds the caller dead in its call writes the message and ends the process, on its stack:
/// measured from the parent process, which shares the stack's memory.
fn need_of_the_last_message(_: &Line) {
    let stack = SignalStack::shared();
    let status = fork_and_wait(|| die_in_a_call(&stack));
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{status}");
    let used = stack.used();
    stack.narrow(SIZE, 0);
    let bytes = used - stack.frame();
    println!("the last message: {bytes} bytes beyond the kernel's frame");
    assert!(bytes <= MESSAGE, "{bytes} bytes");
}

/// The thread with this signal stack is the only target of a caller that ends in its call.
fn die_in_a_call(stack: &SignalStack) -> ! {
    let stack = SignalStack(stack.0);
    let (ready, is_ready) = mpsc::channel();
    thread::spawn(move || {
        stack.narrow(SIZE, 0);
        stack.fill();
        ready.send(()).unwrap();
        idle()
    });
    is_ready.recv().unwrap();
    std::thread::spawn(|| {
        let registered = STRICT.coverage(Coverage::Registered);
        // SAFETY: none: that the thread ends in the closure is the fault.
        let _ = unsafe { registered.run(|| exit_thread()) };
    });
    idle()
}

/// The kernel turns the stack off while a handler is on it.
const SS_AUTODISARM: c_int = 1 << 31;

/// A thread with little more room than for the kernel's frame is refused, and named, before any thread has
/// changed; also one with enough for a system call, but not for a closure.
fn too_small_is_refused(line: &Line) {
    let (ask, asked) = mpsc::channel();
    let (answer, answers) = mpsc::channel();
    thread::spawn(move || {
        let stack = SignalStack::new();
        let frame = stack.frame();
        let mut size = SIZE;
        answer.send(tid() as usize).unwrap();
        for (room, flags) in asked {
            assert!(stack.used() <= size, "{} bytes used of {size}", stack.used());
            size = frame + room;
            stack.fill();
            stack.narrow(size, flags);
            answer.send(0).unwrap();
        }
    });
    let narrow = answers.recv().unwrap() as u32;
    let leave_with = |flags: c_int, room: usize| {
        ask.send((room, flags)).unwrap();
        answers.recv().unwrap();
    };
    let leave = |room| leave_with(0, room);
    start_idlers(2);
    let refused = |result: Result<usize, Error>| match result {
        Err(Error::StackTooSmall(threads)) => assert_eq!(threads[0].tid(), narrow),
        other => panic!("{other:?}"),
    };
    leave(LIMIT / 2);
    refused(broadcast_no_new_privs(STRICT));
    // SAFETY: nothing is done.
    let closure = || unsafe { STRICT.run(|| Ok(7)) }.map(|report| report.value());
    refused(closure());
    line.pause("refused");
    leave_with(SS_AUTODISARM, MESSAGE + 512);
    refused(closure());
    leave(MESSAGE + 512);
    refused(closure());
    broadcast_no_new_privs(STRICT).unwrap();
    line.pause("changed");
    leave(LIMIT + GRANTED + 512);
    assert_eq!(closure(), Ok(7));
    leave(0);
}

/// Stack that [`Broadcast::run`] grants to a closure.
///
/// [`Broadcast::run`]: psx::Broadcast::run
const GRANTED: usize = 2048;

/// Has `BYTES` bytes of locals, and touches the first and the last.
#[inline(never)]
fn use_stack<const BYTES: usize>() -> usize {
    let mut locals = mem::MaybeUninit::<[u8; BYTES]>::uninit();
    let start = locals.as_mut_ptr().cast::<u8>();
    // SAFETY: within the array.
    unsafe {
        start.write_volatile(1);
        start.add(BYTES - 1).write_volatile(1);
    }
    BYTES
}

/// Threads with the alternate stack that std makes for them, and one with the smallest stack that a libc
/// allows and no alternate one.
fn closure_of_the_granted_size(_: &Line) {
    extern "C" fn body(ready: *mut c_void) -> *mut c_void {
        thread::adopt().expect("a place in the registry");
        // SAFETY: the flag outlives the thread, which never ends.
        unsafe { &*ready.cast::<AtomicBool>() }.store(true, Ordering::Release);
        idle()
    }
    static READY: AtomicBool = AtomicBool::new(false);
    start_idlers(2);
    // SAFETY: a thread that runs for as long as the process.
    unsafe {
        let mut attributes = mem::zeroed();
        libc::pthread_attr_init(&mut attributes);
        assert_eq!(libc::pthread_attr_setstacksize(&mut attributes, libc::PTHREAD_STACK_MIN), 0);
        let ready = (&raw const READY).cast_mut().cast();
        assert_eq!(libc::pthread_create(&mut 0, &attributes, body, ready), 0);
    }
    while !READY.load(Ordering::Acquire) {
        thread::yield_now();
    }
    // SAFETY: the closure uses only its stack.
    let report = unsafe { STRICT.run(|| Ok(use_stack::<GRANTED>())) }.unwrap();
    assert_eq!((report.threads(), report.value()), (4, GRANTED));
}

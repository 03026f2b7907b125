//! The thread that KVM makes in a process with a virtual machine.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::case::Case;
use crate::case::Expected::Ok;
use crate::raw;
use crate::threads::await_thread;

pub(crate) const CASES: &[Case] =
    &[Case::new("kvm", "a virtual machine, and KVM's thread for it", &[Ok], |stage| {
        let _crew = stage.crew();
        let _machine = start_machine().expect("what the row needs");
        await_thread(|name, _| name == RECOVERY, "");
        stage.change();
    })
    .needs(makes_thread, "KVM with a thread in the process: /dev/kvm, Linux 6.13, x86_64")];

/// `kvm-nx-lpage-recovery`, as far as a name goes.
const RECOVERY: &str = "kvm-nx-lpage-re";

/// A virtual machine, its processor and what they were made from; empty, it runs into a fault at once,
/// but KVM has made its thread by then.
fn start_machine() -> Option<[OwnedFd; 3]> {
    const CREATE_VM: usize = 0xae01;
    const CREATE_VCPU: usize = 0xae41;
    const RUN: usize = 0xae80;
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm").ok()?;
    let machine = raw::ioctl(kvm.as_raw_fd(), CREATE_VM).ok()?;
    let processor = raw::ioctl(machine.as_raw_fd(), CREATE_VCPU).ok()?;
    // SAFETY: the machine has no memory, and the run takes none of ours.
    let _ =
        unsafe { raw::call(libc::SYS_ioctl, [processor.as_raw_fd() as usize, RUN, 0, 0, 0, 0]) };
    Some([kvm.into(), machine, processor])
}

/// Whether this kernel makes a thread in the process that runs a machine.
fn makes_thread() -> bool {
    let threads = || std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let Some(_machine) = start_machine() else { return false };
    threads().any(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == RECOVERY)
    })
}

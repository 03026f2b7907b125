//! The thread that KVM starts in a process with a virtual machine (P4).

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};

use psx_test_support::procfs::{self, wait_for_thread};
use psx_test_support::raw::syscall;

use crate::raw;
use crate::row::Expected::Ok;
use crate::row::Row;

pub(crate) const ROWS: &[Row] =
    &[Row::new("kvm", "a virtual machine, and KVM's thread for it", &[Ok], |context| {
        let _probes = context.probes();
        let _machine = start_machine().expect("what the row needs");
        wait_for_thread(|_, name, _| name == RECOVERY);
        context.change();
    })
    .needs(makes_thread, "KVM with a thread in the process: /dev/kvm, Linux 6.13, x86_64")];

/// `kvm-nx-lpage-recovery`, cut to the length of a thread name.
const RECOVERY: &str = "kvm-nx-lpage-re";

/// A virtual machine, its processor and their descriptor. It is empty and faults at once, but KVM has
/// started its thread by then.
fn start_machine() -> Option<[OwnedFd; 3]> {
    const CREATE_VM: usize = 0xae01;
    const CREATE_VCPU: usize = 0xae41;
    const RUN: usize = 0xae80;
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm").ok()?;
    let machine = raw::ioctl(kvm.as_raw_fd(), CREATE_VM).ok()?;
    let processor = raw::ioctl(machine.as_raw_fd(), CREATE_VCPU).ok()?;
    // SAFETY: the machine has no memory, and the call uses none of this process.
    let _ = unsafe { syscall(libc::SYS_ioctl, [processor.as_raw_fd() as usize, RUN, 0, 0, 0, 0]) };
    Some([kvm.into(), machine, processor])
}

/// Whether this kernel starts a thread in the process that runs a machine.
fn makes_thread() -> bool {
    let Some(_machine) = start_machine() else { return false };
    procfs::tasks(std::process::id()).iter().any(|task| task.name() == RECOVERY)
}

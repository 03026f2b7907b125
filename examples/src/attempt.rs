//! What a thread without privileges must not be able to do, tried by the thread itself.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::{fmt, fs, io};

use psx::Errno;
use psx_test_support::raw::{owned, syscall};

const SHADOW: &str = "/etc/shadow";
const PORT: u16 = 80;
const PORT_LIMIT: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Attempts are made one at a time, so that a thousand threads need one descriptor and one port.
static TURN: Mutex<()> = Mutex::new(());

/// An operation that needs a privilege.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Open `/etc/shadow` for reading.
    OpenShadow,
    /// Bind a TCP socket to port 80.
    BindPort80,
    /// `setresuid(0, 0, 0)`.
    BecomeRoot,
}

/// The result of an attempt.
pub type Answer = Result<(), Errno>;

impl Attempt {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::OpenShadow, Self::BindPort80, Self::BecomeRoot];

    /// Why the attempt would prove nothing on this machine, if so. To be called while the process still has its
    /// privileges.
    #[must_use]
    pub fn pointless(self) -> Option<String> {
        match self {
            Self::OpenShadow => {
                let missing = !Path::new(SHADOW).exists();
                missing.then(|| format!("this machine has no {SHADOW}"))
            }
            Self::BindPort80 => {
                let first: u16 = fs::read_to_string(PORT_LIMIT).ok()?.trim().parse().ok()?;
                (first <= PORT)
                    .then(|| format!("{PORT_LIMIT} is {first}, so any user may bind port {PORT}"))
            }
            Self::BecomeRoot => None,
        }
    }

    /// Makes the attempt, and undoes it where possible.
    ///
    /// # Errors
    ///
    /// The number by which the kernel refused.
    pub fn make(self) -> Answer {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        match self {
            Self::OpenShadow => fs::File::open(SHADOW).map(drop).map_err(|e| errno_of(&e)),
            Self::BindPort80 => bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT)),
            // SAFETY: three numbers, no memory.
            Self::BecomeRoot => unsafe { syscall(libc::SYS_setresuid, [0; 6]) }.map(drop),
        }
    }

    /// Whether the kernel has refused the attempt for lack of privilege. Another failure, for example of memory
    /// or descriptors, proves nothing.
    #[must_use]
    pub fn is_refused(self, answer: Answer) -> bool {
        match answer.map_err(Errno::raw) {
            Err(libc::EPERM | libc::EACCES) => true,
            // In a user namespace without a uid 0.
            Err(libc::EINVAL) => self == Self::BecomeRoot,
            _ => false,
        }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenShadow => write!(f, "open {SHADOW}"),
            Self::BindPort80 => write!(f, "bind port {PORT}"),
            Self::BecomeRoot => f.write_str("setresuid(0, 0, 0)"),
        }
    }
}

/// Binds without listening, so that no connection is ever accepted.
fn bind(address: SocketAddrV4) -> Answer {
    let kind = (libc::SOCK_STREAM | libc::SOCK_CLOEXEC) as usize;
    // SAFETY: three numbers, no memory.
    let socket = unsafe { syscall(libc::SYS_socket, [libc::AF_INET as usize, kind, 0, 0, 0, 0]) }?;
    let socket = owned(socket);
    let name = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    };
    let args = [socket.as_raw_fd() as usize, (&raw const name).addr(), size_of_val(&name), 0, 0, 0];
    // SAFETY: `name` is an address of the family that it names, and of the length passed.
    match unsafe { syscall(libc::SYS_bind, args) } {
        // The kernel checks the privilege first, and then whether the port is free.
        Err(errno) if errno.raw() == libc::EADDRINUSE => Ok(()),
        other => other.map(drop),
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}
